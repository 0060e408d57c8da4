"""PURE, sans-IO: bytes in, what they mean out."""
