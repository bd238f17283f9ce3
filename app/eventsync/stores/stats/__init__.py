"""Counters, estimates, the operator's overview, and the processes that run."""

__all__ = ["counters", "estimates", "lag", "overview", "processes"]
