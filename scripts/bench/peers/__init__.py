"""Servers that eventsync is measured beside. They send the same bytes to the same clients, each on command."""
