"""Stored state vectors of clients."""

__all__ = ["state_vectors"]
