"""Listeners, the path of a connection, the hub that relays."""
