"""Process-wide set-up: the event loop, the garbage collector, memory and file limits."""
