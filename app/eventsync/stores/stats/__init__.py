"""Counters, estimates and the operator's overview."""
