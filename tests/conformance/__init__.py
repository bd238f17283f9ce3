"""The protocol, spoken by real clients. Its system ends with the package's last test: an idle one takes processor time."""
