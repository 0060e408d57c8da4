"""Configuration from an xDS control plane."""
