"""Jobs beside the sequencer, each under a lease of its own: archiving, compaction, snapshots."""
