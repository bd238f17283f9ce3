"""Entity tags: `"7.5f2c81ab09d3e417"` names one state of a document by its version and a digest of its content.

The version alone does not name a state: writers that are not ours keep it, and a document that is deleted and made
again begins at 1 again. The digest covers all that clients see and all BSON types, in no order of fields, without
`_sync`. So it is the same wherever the state is: read from MongoDB, replayed from the log, answered to a write.

Source: https://www.rfc-editor.org/rfc/rfc9110#name-etag
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from bson.code import Code
from bson.dbref import DBRef

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.values.extended_json import is_misread, json_leaf, spelled, to_json

DIGEST_BYTES: Final = 8
"""64 bits: two states of a document at the same version have the same one once in 2**64 times."""

_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_UUID: Final = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-')
_LEAF: Final = "\0"
"""Stands before a value that JSON has no word for. No field of a BSON document has this name."""


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the digest of a document without `_sync`: 16 hexadecimal digits."""
    try:
        encoded = _encoded(document)
    except orjson.JSONEncodeError:
        # A name that is not UTF-8: the digest is that of the document as it is served.
        encoded = orjson.dumps(orjson.loads(to_json(document)), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()


def _encoded(document: Mapping[str, Any]) -> bytes:
    encoded = orjson.dumps(document, default=_leaf, option=_OPTIONS)
    # A NaN has become null, and a UUID a string. Looking for those here spares a walk through all values.
    if (b"null" in encoded or _UUID.search(encoded)) and is_misread(document):
        return orjson.dumps(_marked(document), default=_leaf, option=_OPTIONS)
    return encoded


def entity_tag(version: int, digest: str) -> str:
    """Return a state's entity tag, as `ETag` has it."""
    return f'"{version}.{digest}"'


def _leaf(value: Any) -> Any:
    """Encode a value that orjson does not know, such that no plain object looks like it."""
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
    """Return the same value, with what orjson would write in its own way (NaN, UUIDs) as leaves."""
    if isinstance(value, Mapping):
        return {name: _marked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    return {_LEAF: spelled(value)} if is_misread(value) else value
