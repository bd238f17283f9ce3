"""The keys of an issuer behind a URL: refreshed ahead, never lost by a failed fetch, and no storm by made-up names."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.jwk import ECKey, OctKey, RSAKey

from eventsync.access import jwks
from eventsync.access.jwks import MAX_BYTES, MAX_KEYS, REFRESH, RETRY, KeySet, fetched, keys_of
from eventsync.errors import Unavailable
from support.identity import KEYS, MovedClock, key_set

URL = "https://id.example/jwks"


class Provider:
    """Answers fetches, and counts them."""

    def __init__(self, content: bytes | Exception | None = None) -> None:
        self.content: bytes | Exception = key_set() if content is None else content
        self.fetches = 0

    def __call__(self, url: str) -> bytes:
        assert url == URL
        self.fetches += 1
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def known(provider: Provider) -> tuple[KeySet, MovedClock]:
    clock = MovedClock()
    return KeySet(URL, clock=clock.monotonic, fetch=provider), clock


async def names(keys: KeySet, kid: str | None = None) -> list[str | None]:
    return [key.kid for key in await keys.keys(kid)]


async def refreshed(keys: KeySet) -> None:
    """Wait for the refresh in the background."""
    task = keys._refreshing
    assert task is not None
    await task


async def test_keys_are_fetched_once_and_found_by_name() -> None:
    provider = Provider()
    keys, _ = known(provider)
    assert await names(keys, "ec") == ["ec"]
    assert await names(keys) == ["rsa", "ec", "ed"]
    assert provider.fetches == 1


async def test_concurrent_first_requests_share_a_fetch() -> None:
    provider = Provider()
    keys, _ = known(provider)
    assert await asyncio.gather(*(names(keys, "ec") for _ in range(50))) == [["ec"]] * 50
    assert provider.fetches == 1


async def test_a_closed_set_is_not_fetched_for_those_who_wait() -> None:
    keys, _ = known(Provider())
    keys.refresh_ahead()
    waiting = asyncio.create_task(keys.keys("ec"))
    await asyncio.sleep(0)
    keys.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_an_old_set_is_refreshed_in_the_background() -> None:
    provider = Provider()
    keys, clock = known(provider)
    await keys.keys("ec")
    clock.advance(REFRESH)
    provider.content = key_set(KEYS["RS256"])
    assert await names(keys, "ec") == ["ec"]  # at once, by the old set
    await refreshed(keys)
    assert (await names(keys), provider.fetches) == (["rsa"], 2)


async def test_a_failed_fetch_takes_no_key_away() -> None:
    provider = Provider()
    keys, clock = known(provider)
    await keys.keys("ec")
    generation = keys.generation
    for content in (OSError("refused"), b"<html>", b"{}", b'{"keys":[]}', b"[" * 100_000, b"\xff", ValueError("large")):
        provider.content = content
        clock.advance(REFRESH)
        assert await names(keys, "ec") == ["ec"]
        await refreshed(keys)
        assert await names(keys, "ec") == ["ec"]
    assert keys.generation == generation


async def test_made_up_names_cause_at_most_one_fetch_in_a_while() -> None:
    provider = Provider()
    keys, clock = known(provider)
    await keys.keys("ec")
    for number in range(1000):
        assert await names(keys, f"made-up-{number}") == []
    assert provider.fetches == 1
    clock.advance(RETRY)
    for number in range(1000):
        assert await names(keys, f"made-up-{number}") == []
    assert provider.fetches == 2


async def test_a_new_key_is_found_by_the_first_token_that_names_it() -> None:
    provider = Provider(key_set(KEYS["RS256"]))
    keys, clock = known(provider)
    assert await names(keys, "ec") == []
    provider.content = key_set()
    clock.advance(RETRY)
    assert await names(keys, "ec") == ["ec"]


async def test_an_unknown_key_is_no_bad_one_while_its_issuer_is_away() -> None:
    provider = Provider()
    keys, clock = known(provider)
    await keys.keys("ec")
    provider.content = OSError("refused")
    clock.advance(RETRY)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.keys("new")
    assert provider.fetches == 2


async def test_without_any_set_the_client_has_to_come_back() -> None:
    provider = Provider(OSError("refused"))
    keys, clock = known(provider)
    for _ in range(100):
        with pytest.raises(Unavailable) as failure:
            await keys.keys("ec")
        assert failure.value.retry_after == RETRY
    assert provider.fetches == 1
    clock.advance(RETRY)
    provider.content = key_set()
    assert await names(keys, "ec") == ["ec"]


async def test_a_key_that_is_withdrawn_changes_the_generation() -> None:
    provider = Provider()
    keys, clock = known(provider)
    await keys.keys("ec")
    before = keys.generation
    provider.content = key_set(*KEYS.values(), ECKey.generate_key("P-256", {"kid": "more"}))
    clock.advance(REFRESH)
    await keys.check()
    await refreshed(keys)
    assert keys.generation == before
    provider.content = key_set(KEYS["RS256"])
    clock.advance(REFRESH)
    await keys.check()
    await refreshed(keys)
    assert keys.generation > before


def test_only_public_keys_for_signatures_are_taken() -> None:
    usable = KEYS["ES256"].as_dict(private=True)  # a provider that shows its private key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024, {"kid": "weak"}).as_dict(private=False)
    shared = OctKey.import_key(b"x" * 32).as_dict(private=True)
    others: list[Any] = [weak, shared, {"kty": "EC"}, {"kty": "AKP"}, {}, 7, None, usable | {"use": "enc"}]
    others += [usable | {"kid": 7}, usable | {"crv": "P-9"}, usable | {"x": "!"}, {"kty": ["EC"]}]
    keys = keys_of(json.dumps({"keys": [*others, usable]}).encode())
    assert [(key.kid, key.is_private) for key in keys] == [("ec", False)]


def test_a_key_of_an_algorithm_that_this_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL in FIPS mode has no Ed25519."""

    def lacking(_: bytes) -> None:
        raise UnsupportedAlgorithm("ed25519 is not supported by this version of OpenSSL")

    monkeypatch.setattr(Ed25519PublicKey, "from_public_bytes", lacking)
    assert [key.kid for key in keys_of(key_set())] == ["rsa", "ec"]


@pytest.mark.parametrize("tree", [[], {}, {"keys": {}}, {"keys": []}, {"keys": [{}]}, {"keys": [{}] * (MAX_KEYS + 1)}])
def test_a_set_without_keys_or_with_too_many_is_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match="it "):
        keys_of(json.dumps(tree).encode())


# --- HTTP ---------------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """Serve on loopback. `answer` is called with each request's handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: Any, status: int, content: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def test_a_set_is_fetched_by_http() -> None:
    with serving(lambda handler: send(handler, 200, key_set())) as url:
        assert len(keys_of(fetched(f"{url}/jwks"))) == 3


@pytest.mark.parametrize("status", [204, 400, 404, 500])
def test_other_answers_than_200_are_no_set(status: int) -> None:
    with (
        serving(lambda handler: send(handler, status, b"" if status == 204 else key_set())) as url,
        pytest.raises((OSError, ValueError)),
    ):
        keys_of(fetched(url))


def test_a_redirect_within_the_origin_is_followed_and_no_other() -> None:
    def moved(handler: Any) -> None:
        if handler.path == "/jwks":
            send(handler, 302, Location="/keys")
        elif handler.path == "/elsewhere":
            send(handler, 302, Location=other)
        elif handler.path == "/file":
            send(handler, 302, Location="file:///etc/passwd")
        else:
            send(handler, 200, key_set())

    with serving(lambda handler: send(handler, 200, key_set())) as other, serving(moved) as url:
        assert len(keys_of(fetched(f"{url}/jwks"))) == 3
        for path in ("elsewhere", "file"):
            with pytest.raises((OSError, ValueError)):
                fetched(f"{url}/{path}")


def test_an_answer_is_bounded_in_bytes() -> None:
    with (
        serving(lambda handler: send(handler, 200, b" " * (MAX_BYTES + 1))) as url,
        pytest.raises(ValueError, match="bytes"),
    ):
        fetched(url)


def test_an_answer_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 0.3)
    ended = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.02):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    with serving(drip) as url:
        with pytest.raises(TimeoutError):
            fetched(url)
        ended.set()
