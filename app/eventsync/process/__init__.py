"""Process-wide set-up: the event loop, the garbage collector, memory and file limits."""

__all__ = ["event_loop", "garbage_collection", "memory", "open_files", "termination"]
