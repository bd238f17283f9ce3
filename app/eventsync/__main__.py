"""`python -m eventsync`: the same as `eventsync`."""

from __future__ import annotations

from eventsync.cli import main

if __name__ == "__main__":
    main()
