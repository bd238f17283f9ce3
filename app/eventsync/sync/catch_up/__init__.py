"""Clients that are behind or new: the planner, log pages, squashed answers, snapshots."""
