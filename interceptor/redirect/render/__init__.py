"""PURE. The Ruleset in the forms people and programs read."""
