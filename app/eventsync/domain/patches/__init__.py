"""JSON Patch, merge patch, the difference of two documents, and the smallest MongoDB update. Pure."""

__all__ = ["diff", "json_patch", "json_pointer", "merge_patch", "minimal_update"]
