"""The cold tier: segments on object storage, their registry, and what reads them."""
