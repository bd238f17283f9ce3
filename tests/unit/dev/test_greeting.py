from __future__ import annotations

import json
import shlex
from pathlib import Path

from eventsync.dev.demo_data import first_id
from eventsync.dev.greeting import lines

URL = "http://127.0.0.1:8000"


def words(text: str) -> list[str]:
    return shlex.split(text)


def test_with_the_demo_there_is_something_to_open_follow_write_and_watch() -> None:
    opened, follow, write, watch = map(words, lines(URL, ("theaters", "orders"), Path.cwd() / ".eventsync", demo=True))
    assert opened == ["open", f"{URL}/"]
    assert follow == ["follow", "curl", "-N", f"{URL}/v1/sync/sse?shape=theaters"]
    assert write[-1] == f"{URL}/v1/collections/theaters/documents/{first_id()}"
    assert json.loads(write[write.index("-d") + 1]) == {"location": {"address": {"city": "Springfield"}}}
    assert watch[-2:] == ["tail", "theaters"]


def test_another_data_directory_is_named() -> None:
    *_, watch = lines(URL, ("orders",), Path("/elsewhere"), demo=False)
    assert "EVENTSYNC_CONFIG=/elsewhere/eventsync.toml" in words(watch)


def test_without_any_collection_it_says_how_to_track_one() -> None:
    _, track = lines(URL, (), Path("/elsewhere"), demo=False)
    assert words(track)[-2:] == ["track", "COLLECTION"]
