"""Instruments that prove the event log exact under faults: see README.md. `scripts/chaos` is the door."""
