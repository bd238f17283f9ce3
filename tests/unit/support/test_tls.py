"""Tests that no HTTP client of the tests reads the store of certificates for itself."""

from __future__ import annotations

import ssl

import httpx
import pytest

from support.waiting import patience


async def test_clients_share_their_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    async with httpx.AsyncClient(timeout=patience(10)):
        pass

    def read(*, cafile: str) -> None:
        pytest.fail(f"{cafile} is read again")

    monkeypatch.setattr(ssl, "create_default_context", read)
    with httpx.Client(timeout=patience(10)):
        pass
    async with httpx.AsyncClient(timeout=patience(10)):
        pass
