"""Composition root of the proxy: settings become services in one nursery."""
