"""Certificates, TLS contexts, their rotation, and TLS streams. Imported only where the configuration names a certificate."""
