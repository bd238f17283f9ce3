"""New events to connected clients: feed, window, fan-out."""

__all__ = ["fan_out", "feed", "pages", "window"]
