"""The jobs beside the sequencer: archiver, compactor and snapshotter, each under a lease of its own."""

__all__ = ["archiver", "compactor", "snapshotter"]
