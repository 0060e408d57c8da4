"""PURE. An original destination becomes a decision."""
