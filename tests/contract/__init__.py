"""The HTTP API and the protocol, frame by frame. Its systems end with the package's last test, as idle ones take time."""
