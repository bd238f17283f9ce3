"""New events to connected clients: feed, window, fan-out."""

__all__ = ["continuity", "fan_out", "feed", "followed", "pages", "redacting", "window"]
