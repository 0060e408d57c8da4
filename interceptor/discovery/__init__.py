"""Where configuration comes from; the only writer of the store."""
