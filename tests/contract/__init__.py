"""The HTTP API and the protocol, frame by frame. Its systems end with the last test of the package."""
