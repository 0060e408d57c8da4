"""The admin endpoint (loopback only) and the telemetry endpoint."""
