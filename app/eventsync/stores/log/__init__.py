"""The event log in MongoDB: events, logs and checkpoints, tiers, tracked collections."""
