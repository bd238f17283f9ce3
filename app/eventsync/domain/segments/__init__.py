"""The file format of segments: blocks, document index, footer. Pure."""

__all__ = ["block", "document_index", "file", "format"]
