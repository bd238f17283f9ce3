"""Benchmarks against a real MongoDB: each beside the floor of the same run, so that ratios are the claims."""
