"""The two commands: parse, call, print, exit code; no logic."""
