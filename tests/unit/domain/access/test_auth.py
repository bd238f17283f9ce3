"""`[auth]` of a rules file."""

from __future__ import annotations

from typing import Any

import pytest

from eventsync.domain.access.auth import AuthSettings, Issuer, is_loopback, read_auth

PROVIDER: dict[str, Any] = {"iss": "https://id.example.com", "jwks": "https://id.example.com/jwks", "aud": "shop"}
PROVIDER |= {"algorithms": ["ES256"]}
SECRET = {"iss": "backend", "secret_file": "/run/secrets/eventsync", "algorithms": ["HS256"]}


def problems(**changed: Any) -> list[tuple[str, str]]:
    """Return the places and reasons of a provider with some fields changed; None leaves one out."""
    item = {name: value for name, value in (PROVIDER | changed).items() if value is not None}
    settings, found = read_auth({"issuers": [item]})
    assert (settings == AuthSettings()) is bool(found)
    return [(problem.place, problem.reason) for problem in found]


def test_issuers_are_read_with_their_keys_or_their_secret() -> None:
    settings, found = read_auth({"issuers": [PROVIDER, SECRET]})
    assert found == []
    assert settings.issuers == (
        Issuer("https://id.example.com", ("ES256",), ("shop",), jwks="https://id.example.com/jwks"),
        Issuer("backend", ("HS256",), (), secret_file="/run/secrets/eventsync"),
    )
    assert settings.issuer("backend") == settings.issuers[1]
    assert settings.issuer("another") is settings.issuer(None) is settings.issuer(["backend"]) is None


def test_no_issuer_is_a_deployment_with_service_keys_alone() -> None:
    assert read_auth({}) == (AuthSettings(), [])


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"iss": None}, "issuers[0].iss"),
        ({"iss": ""}, "issuers[0].iss"),
        ({"iss": 7}, "issuers[0].iss"),
        ({"aud": None}, "issuers[0].aud"),
        ({"aud": []}, "issuers[0].aud"),
        ({"aud": [7]}, "issuers[0].aud"),
        ({"algorithms": None}, "issuers[0].algorithms"),
        ({"algorithms": []}, "issuers[0].algorithms"),
        ({"algorithms": "ES256"}, "issuers[0].algorithms"),
        ({"algorithms": ["ES256", "none"]}, "issuers[0].algorithms[1]"),
        ({"algorithms": ["HS256"]}, "issuers[0].algorithms[0]"),
        ({"algorithms": [["ES256"]]}, "issuers[0].algorithms[0]"),
        ({"secret_file": "/x"}, "issuers[0]"),
        ({"jwks": None}, "issuers[0]"),
        ({"jwks": None, "secret_file": "secret", "algorithms": ["HS256"]}, "issuers[0].secret_file"),
        ({"jwks": None, "secret_file": "/secret"}, "issuers[0].algorithms[0]"),
        ({"kid": "1"}, "issuers[0].kid"),
    ],
)
def test_an_unverifiable_token_rule_is_refused_with_its_place(changed: dict[str, Any], place: str) -> None:
    assert [found for found, _ in problems(**changed)] == [place]


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com/jwks",
        "ftp://id.example.com/",
        "https://",
        "https:///jwks",
        "file:///etc/passwd",
        7,
        "https://u:p@id.example.com/",
        "https://id.example.com/#x",
        "http://127.0.0.1.example/",
        "https://[::1",
        "",
        "https://id.example.com:port/",
        "https://ïd.example.com/",
    ],
)
def test_keys_come_by_https_or_from_loopback(url: Any) -> None:
    assert [place for place, _ in problems(jwks=url)] == ["issuers[0].jwks"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/jwks", "http://[::1]/jwks", "http://localhost/jwks?x=1"])
def test_a_provider_on_loopback_may_do_without_tls(url: str) -> None:
    assert problems(jwks=url) == []


def test_each_issuer_is_listed_once() -> None:
    settings, found = read_auth({"issuers": [PROVIDER, PROVIDER]})
    assert [problem.place for problem in found] == ["issuers[1].iss"]
    assert len(settings.issuers) == 1


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        ([], ""),
        ({"issuers": {}}, "issuers"),
        ({"issuers": [SECRET] * 17}, "issuers"),
        ({"issuers": [7]}, "issuers[0]"),
        ({"issuer": []}, "issuer"),
    ],
)
def test_a_table_of_another_form_is_refused(tree: Any, place: str) -> None:
    assert [problem.place for problem in read_auth(tree)[1]] == [place]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_other_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
