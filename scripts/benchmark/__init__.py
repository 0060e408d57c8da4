"""The benchmark: us and the peers in turn, in network namespaces of their own. ``scripts/bench`` runs it.

``options`` (what is asked) -> ``measures`` (what is measured, and the bar) -> ``stage`` (namespaces, rules, servers, one
contestant) -> ``load`` (the tools and their samples) -> ``results`` (medians, ratios) -> ``report``, ``plot``. Pure are
``options``, ``measures``, ``contestants``, ``outputs``, ``results``, ``report``, ``plot``.
"""
