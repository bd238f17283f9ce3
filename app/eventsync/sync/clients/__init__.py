"""State vectors and the lag of each client."""

__all__ = ["lag", "state_vectors", "vector_writer"]
