"""PURE. Settings become one typed Ruleset; plan, diff, explain and every rendering come from it."""
