"""From the change stream to the event log: one leader converts each committed change to a numbered event."""

__all__ = ["sequencer"]
