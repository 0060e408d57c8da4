"""Metrics, access log and program log."""
