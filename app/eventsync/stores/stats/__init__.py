"""Counters, estimates, query plans and the operator's overview."""

__all__ = ["counters", "estimates", "lag", "overview"]
