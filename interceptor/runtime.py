"""Composition root: settings become services in one nursery; signals, drain, deadline."""
