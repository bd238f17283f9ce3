"""Jobs beside the sequencer, each under a lease of its own: archiving, compaction, snapshots."""

__all__ = ["archiver", "compactor", "snapshotter"]
