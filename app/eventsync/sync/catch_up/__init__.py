"""Clients that are behind or new: the planner, log pages, squashed answers, snapshots."""

__all__ = ["binder", "bootstrap", "log_pages", "planner", "source", "time_travel"]
