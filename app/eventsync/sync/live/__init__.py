"""New events to connected clients: feed, window, fan-out."""

__all__ = ["barriers", "continuity", "fan_out", "feed", "followed", "pages", "redacting", "window"]
