"""Thousands of clients in one process: raw sockets, as little parsing as exactness takes."""
