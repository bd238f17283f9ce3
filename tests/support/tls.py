"""A pytest plugin that has all HTTP clients of a process share the certificates that they trust.

httpx reads its whole store of certificates for each client, which takes 24 ms of CPU. The tests make thousands of
clients, none of which speaks TLS.
"""

from __future__ import annotations

import functools

from httpx._transports import default


def pytest_configure() -> None:
    """Read the store once; `tests/unit/support/test_tls.py` notices where httpx reads it again."""
    default.create_ssl_context = functools.cache(default.create_ssl_context)  # type: ignore[attr-defined]
