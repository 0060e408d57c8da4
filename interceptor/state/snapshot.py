"""PURE. One immutable version of everything decided by configuration; a flow sees one from start to end."""
