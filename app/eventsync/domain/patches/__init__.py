"""JSON Patch, merge patch, the difference of two documents, and the smallest MongoDB update. Pure."""
