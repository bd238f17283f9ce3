"""The driver's edge: connections, errors, change streams, raw cursors, clocks, leases, indexes, privileges."""
