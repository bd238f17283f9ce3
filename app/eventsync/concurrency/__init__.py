"""Building blocks for asyncio that know nothing of MongoDB or of the sync protocol: caches, admission, pacing,
prefetching, helper processes.
"""

__all__ = [
    "admission",
    "budgets",
    "held_bytes",
    "lru_cache",
    "offload",
    "pacer",
    "prefetch",
    "single_flight",
    "slices",
    "timeouts",
    "token_bucket",
    "ttl_cache",
    "waiting",
]
