"""Load generator: thousands of clients in one process, over raw sockets, with as little parsing as exactness takes."""
