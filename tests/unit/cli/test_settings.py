from __future__ import annotations

import pytest

from eventsync.settings import Settings
from eventsync.settings.listing import listing


def test_every_setting_is_listed_with_its_description() -> None:
    listed = listing(Settings())
    assert [item.name for item in listed] == list(Settings.model_fields)
    assert all(item.description.endswith(".") for item in listed)
    assert all(item.env == f"EVENTSYNC_{item.name.upper()}" for item in listed)


_TIMES = [
    name for name, field in Settings.model_fields.items() if field.annotation is float and not name.endswith("_ratio")
]


@pytest.mark.parametrize("name", _TIMES)
def test_the_description_of_a_time_has_its_unit(name: str) -> None:
    assert "second" in str(Settings.model_fields[name].description)


def test_no_secret_is_listed() -> None:
    listed = listing(
        Settings(mongodb_uri="mongodb://u:hunter2@h/", archive_url="s3://u:hunter2@bucket/path?token=hunter2")
    )
    shown = {item.name: item.value for item in listed}
    assert (shown["mongodb_uri"], shown["archive_url"]) == ("mongodb://u:***@h/", "s3://bucket/path")
    assert "hunter2" not in str(listed)
