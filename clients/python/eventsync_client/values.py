"""Documents as the application sees them: JSON as on the wire, or the types of BSON."""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Decode = Literal["json", "bson"]


class Codec(Protocol):
    """Converts documents between the wire and the application."""

    def decode(self, tree: Any) -> Any:
        """Return a value of the wire as the application sees it."""

    def encode(self, value: Any) -> Any:
        """Return a value of the application as the wire has it."""


class JsonCodec:
    """Documents are MongoDB Extended JSON, as they came: dict, list, str, int, float, bool, None."""

    def decode(self, tree: Any) -> Any:
        return tree

    def encode(self, value: Any) -> Any:
        return value


class BsonCodec:
    """Documents have the types of `bson`: ObjectId, datetime, Int64, Decimal128, Binary and others."""

    def __init__(self) -> None:
        """Raises `ImportError` without PyMongo's `bson`: install `eventsync-client[bson]`."""
        from bson import json_util  # noqa: PLC0415 - an optional package
        from bson.codec_options import DatetimeConversion  # noqa: PLC0415

        self._util = json_util
        options = json_util.RELAXED_JSON_OPTIONS.with_options(
            tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
        )
        self._read = options
        self._write = json_util.CANONICAL_JSON_OPTIONS

    def decode(self, tree: Any) -> Any:
        return self._util.loads(json.dumps(tree), json_options=self._read)

    def encode(self, value: Any) -> Any:
        return json.loads(self._util.dumps(value, json_options=self._write))


def codec_of(decode: Decode) -> Codec:
    """Return the codec of a client's `decode`. Raises `ImportError` and `ValueError`."""
    if decode == "json":
        return JsonCodec()
    if decode == "bson":
        return BsonCodec()
    raise ValueError(f"decode is 'json' or 'bson', not {decode!r}")
