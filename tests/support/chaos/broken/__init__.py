"""Sequencers that are broken on purpose, each in one way: what the checker must never let pass."""
