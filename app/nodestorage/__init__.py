"""Versioned writes with diffs: optimistic concurrency over ordinary MongoDB documents."""
