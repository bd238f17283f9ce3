"""Values that orjson would write in its own way are found in every form that the driver gives."""

from __future__ import annotations

import uuid
from typing import Any

import bson
import pytest

from eventsync.domain.bson_scan.plain import is_misread
from eventsync.domain.values.extended_json import CODEC


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), uuid.UUID(int=7)], ids=repr)
def test_it_is_found_in_bytes_and_in_a_view(kind: Any, value: Any) -> None:
    assert is_misread(kind(bson.encode({"a": {"b": [value]}}, codec_options=CODEC)))


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_ordinary_values_are_not_misread(kind: Any) -> None:
    assert not is_misread(kind(bson.encode({"a": {"b": [1.5, "text", 3]}}, codec_options=CODEC)))
