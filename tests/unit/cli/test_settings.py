from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.settings import as_markdown, listing, masked
from app.settings import Settings

DOCS = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert DOCS.read_text() == as_markdown(), "run `eventsync settings --markdown > docs/settings.md`"


def test_every_setting_is_listed_with_what_it_means() -> None:
    listed = listing(Settings())
    assert [item.name for item in listed] == list(Settings.model_fields)
    assert all(item.description.endswith(".") for item in listed)
    assert all(item.env == f"EVENTSYNC_{item.name.upper()}" for item in listed)


_TIMES = [
    name for name, field in Settings.model_fields.items() if field.annotation is float and not name.endswith("_ratio")
]


@pytest.mark.parametrize("name", _TIMES)
def test_a_time_says_its_unit(name: str) -> None:
    assert "second" in str(Settings.model_fields[name].description)


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
