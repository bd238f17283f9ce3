"""Counters, estimates and the operator's overview."""

__all__ = ["counters", "estimates", "lag", "overview"]
