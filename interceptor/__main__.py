"""``python -m interceptor`` is the ``interceptor`` command."""

from __future__ import annotations

from interceptor.cli.gateway import main

main()
