"""The log replayed: time travel, comparison with the collection, restore, verification."""
