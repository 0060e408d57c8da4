"""PURE. Policies: from facts about a peer, a connection or a request, and the time, to a verdict."""
