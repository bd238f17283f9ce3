"""What eventsync keeps in MongoDB: the event log, its head, leases, tracked collections."""
