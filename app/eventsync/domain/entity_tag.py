"""Entity tags: `"7.5f2c81ab09d3e417"` names one state of a document by its version and a digest of its content.

The version alone does not identify a state: other writers do not change it, and a recreated document starts at 1 again.
The digest covers the content and all BSON types, independent of field order, without `_sync`. It is therefore the same
whether the state is read from MongoDB, replayed from the log or returned by a write.

Source: https://www.rfc-editor.org/rfc/rfc9110#name-etag
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.values.extended_json import is_misread, json_leaf, spelled, to_json

DIGEST_BYTES: Final = 8
"""64 bits: two states of the same version collide with a probability of 2**-64."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_UUID: Final = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-')
_LEAF: Final = "\0"
"""The key of a value that JSON can't express. No BSON field can have this name."""

_JSON_LEAVES: Final = frozenset({ObjectId, datetime, Int64, Decimal128})


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the digest of a document without `_sync`: 16 hexadecimal digits."""
    try:
        encoded = _encoded(document)
    except orjson.JSONEncodeError:
        # A field name is not UTF-8: digest the document as it is served.
        encoded = orjson.dumps(orjson.loads(to_json(document)), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()


def _encoded(document: Mapping[str, Any]) -> bytes:
    encoded = orjson.dumps(document, default=_leaf, option=_OPTIONS)
    # orjson writes NaN as null and a UUID as a string. Searching the output for them saves a walk over all values.
    if (b"null" in encoded or _UUID.search(encoded)) and is_misread(document):
        return orjson.dumps(_marked(document), default=_leaf, option=_OPTIONS)
    return encoded


def entity_tag(version: int, digest: str) -> str:
    """Return the entity tag of a state, in the form of the `ETag` header."""
    return f'"{version}.{digest}"'


def _leaf(value: Any) -> Any:
    """Encode a value unknown to orjson in a form that no plain object has."""
    # Common types first: `isinstance` of an abstract class takes several times as long.
    if type(value) in _JSON_LEAVES:
        return {_LEAF: json_leaf(value)}
    if isinstance(value, DBRef):
        return {_LEAF: _marked(value.as_doc())}
    if isinstance(value, Code) and value.scope is not None:
        return {_LEAF: [str(value), _marked(value.scope)]}
    if isinstance(value, Mapping):
        return _marked(value)
    if isinstance(value, Opaque):
        return {_LEAF: value.spelled()}
    return {_LEAF: json_leaf(value)}


def _marked(value: Any) -> Any:
    """Return the value with leaves for values that orjson would misrepresent (NaN, UUIDs)."""
    if isinstance(value, Mapping):
        return {name: _marked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    return {_LEAF: spelled(value)} if is_misread(value) else value
