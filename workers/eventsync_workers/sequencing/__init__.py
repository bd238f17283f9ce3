"""Sequencing: one leader converts each committed change of the change stream to a numbered event of the log.

A change passes `stream_reader`, `transactions`, `pipeline` and `log_writer`, which converts and appends it.
"""

__all__ = ["sequencer"]
