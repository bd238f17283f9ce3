"""Building blocks for asyncio that know nothing of MongoDB or of the sync protocol: caches, admission, pacing,
prefetching, helper processes.
"""
