"""The places of a request where a credential stands."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from eventsync.api.authentication import cookie_name, credential_of
from eventsync.api.origins import is_own_origin
from eventsync.errors import Unauthenticated

OWN = ("Origin", "https://sync.example")


def request(*headers: tuple[str, str], scheme: str = "https", host: str = "sync.example") -> Request:
    named = [(name.lower().encode(), value.encode()) for name, value in (("Host", host), *headers)]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "scheme": scheme, "path": "/", "query_string": b""}
    return Request(scope | {"headers": named, "server": (host, 443)})


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc", " Bearer abc "])
def test_a_token_stands_behind_its_scheme(value: str) -> None:
    assert credential_of(request(("Authorization", value))) == "abc"


@pytest.mark.parametrize("values", [["Basic abc"], ["abc"], ["Bearer"], ["Bearer "], [""], ["Bearer a", "Bearer b"]])
def test_credentials_of_other_schemes_and_several_ones_are_refused(values: list[str]) -> None:
    with pytest.raises(Unauthenticated) as failure:
        credential_of(request(*(("Authorization", value) for value in values)))
    assert failure.value.reason == "token_invalid"


def test_a_cookie_has_the_name_that_browsers_bind_to_the_host() -> None:
    assert cookie_name(request()) == "__Host-eventsync"
    assert cookie_name(request(scheme="http")) == "__Host-eventsync"
    assert cookie_name(request(scheme="http", host="localhost:8000")) == "eventsync"
    assert cookie_name(request(host="localhost")) == "__Host-eventsync"


def test_a_cookie_is_taken_by_its_own_name_and_once() -> None:
    assert credential_of(request(("Cookie", "a=b; __Host-eventsync=abc"), OWN)) == "abc"
    for cookie in ("eventsync=abc", "__host-eventsync=abc", "a=__Host-eventsync", "", "\x00", "__Host-eventsync"):
        assert credential_of(request(("Cookie", cookie), OWN)) is None
    assert credential_of(request(("Cookie", "__Host-eventsync=a"), ("Cookie", "__Host-eventsync=b"), OWN)) is None
    # Browsers send all cookies in one line.
    assert credential_of(request(("Cookie", "__Host-eventsync=a; __Host-eventsync=b"), OWN)) is None
    assert credential_of(request(("Cookie", 'a[]={"b"}; c;__Host-eventsync=abc;'), OWN)) == "abc"
    # A header decides, also where it is wrong.
    assert credential_of(request(("Cookie", "__Host-eventsync=a"), OWN, ("Authorization", "Bearer b"))) == "b"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([OWN], True),
        ([("Origin", "https://sync.example:443")], True),
        ([("Sec-Fetch-Site", "same-origin")], True),
        ([OWN, ("Sec-Fetch-Site", "same-origin")], True),
        ([], False),
        ([("Origin", "null")], False),
        ([("Origin", "http://sync.example")], False),
        ([("Origin", "https://sync.example:444")], False),
        ([("Origin", "https://a.sync.example")], False),
        ([OWN, OWN, ("Origin", "https://evil.example")], False),
        ([("Sec-Fetch-Site", "none")], False),
        ([("Sec-Fetch-Site", "same-site")], False),
        ([OWN, ("Sec-Fetch-Site", "cross-site")], False),
        ([("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], False),
    ],
)
def test_a_request_is_of_the_own_origin_if_all_of_its_headers_say_so(
    headers: list[tuple[str, str]], expected: bool
) -> None:
    assert is_own_origin(request(*headers).scope) is expected
