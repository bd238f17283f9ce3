from __future__ import annotations

import pytest

from eventsync.urls import bare, masked, without_secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://h:1,g:2/?replicaSet=rs0", "mongodb://h:1,g:2/?replicaSet=rs0"),
        ("mongodb://u@h/", "mongodb://u@h/"),
        ("mongodb://u:secret@h:1/", "mongodb://u:***@h:1/"),
        ("mongodb+srv://u:se:cret@h/?w=1", "mongodb+srv://u:***@h/?w=1"),
        ("mongodb://u:not/quoted@right@h/", "mongodb://u:***@h/"),
        ("mongodb://:secret@h/", "mongodb://:***@h/"),
        ("mongodb://h/?tlsCertificateKeyFilePassword=secret&w=1", "mongodb://h/?tlsCertificateKeyFilePassword=***&w=1"),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:secret,A:b",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:***,A:b",
        ),
    ],
)
def test_a_connection_string_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert masked(uri) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/srv/events@home?x", "/srv/events@home?x"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("s3://id:secret@bucket/path?secret_access_key=secret", "s3://bucket/path"),
    ],
)
def test_a_url_is_shown_bare(url: str, shown: str) -> None:
    assert bare(url) == shown


def test_a_message_that_repeats_a_password_is_not_shown() -> None:
    uri = "mongodb://ada:hunter%2F2@h/?tlsCertificateKeyFilePassword=opensesame"
    for said in ("bad port 'hunter%2F2'", "bad port 'hunter/2'", "wrong password opensesame"):
        assert "not shown" in without_secrets(said, uri)
    assert without_secrets("bad port", uri) == "bad port"
