"""HTTP: machines driven by the hub, bytes in, bytes out; a task only where something waits."""
