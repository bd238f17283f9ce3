"""BSON read by its bytes: odd documents that the driver refuses, and the test for documents that are plain. Pure."""

__all__ = ["ambiguous", "opaque", "plain"]
