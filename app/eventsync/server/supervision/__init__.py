"""Processes that are kept running: how one child is, and the server processes behind `eventsync serve --workers`."""
