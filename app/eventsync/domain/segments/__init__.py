"""The file format of segments: blocks, document index, footer. Pure."""
