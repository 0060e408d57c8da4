"""One immutable snapshot of everything configured (PURE), and the store that holds the current one."""
