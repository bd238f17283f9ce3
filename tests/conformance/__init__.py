"""The protocol, spoken by real clients. Its system ends with the last test of the package: also an idle one costs."""
