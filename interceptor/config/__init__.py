"""PURE. Documents and flags become typed settings here; every problem is found at once, with its file and line."""
