"""Stored state vectors of clients."""
