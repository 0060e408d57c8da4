"""PURE. The words every other package speaks: addresses, directions, flows, response flags."""
