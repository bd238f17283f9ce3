"""State vectors and the lag of each client."""
