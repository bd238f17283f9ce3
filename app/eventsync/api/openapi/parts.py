"""Building blocks of the operations: parameters, headers, bodies, responses and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from eventsync import errors
from eventsync.api.conditions import MAX_KEY
from eventsync.api.responses import JSON
from eventsync.server import problems
from eventsync.settings import Settings

Json = dict[str, Any]

PROBLEM: Final = problems.MEDIA_TYPE

THEATER: Final[Json] = {
    "_id": {"$oid": "59a47286cfa9a3a73e51e72c"},
    "theaterId": 1000,
    "location": {"address": {"street1": "340 W Market", "city": "Bloomington", "state": "MN", "zipcode": "55425"}},
}
"""The document of the examples."""

POSITION: Final = "k3f9ab2c:128"


def default(setting: str) -> Any:
    """Return the default of a setting, for the descriptions."""
    return Settings.model_fields[setting].default


def ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    return ref("schemas", name)


def _parameter(name: str, where: str, description: str, value: Json, example: Any, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": where,
        "description": description,
        "required": required,
        "schema": value,
        "example": example,
    }


def query(name: str, description: str, value: Json, example: Any, *, required: bool = False) -> Json:
    return _parameter(name, "query", description, value, example, required=required)


_TEXT: Json = {"type": "string"}
_TAG = '"7.5f2c81ab09d3e417"'
_IF_MATCH = "Write only if the document is in one of these states. Otherwise 412 with the current state."
_IF_NONE_MATCH = "Write only if the document is in none of these states; `*`: only if the document does not exist."
_IF_CHANGED = "Respond 304 if this is the current state."
_IF_STILL = "Respond 412 if this is not the current state."
_KEY = (
    f"1 to {MAX_KEY} printable ASCII characters. A repeated request gets the first response and writes nothing; 409 if "
    "the request differs. The key is also the event's `op_id`."
)

PARAMETERS: Final[Json] = {
    "collection": _parameter(
        "collection", "path", "A tracked collection.", schema("CollectionName"), "theaters", required=True
    ),
    "id": _parameter(
        "id",
        "path",
        "The document's id as text, percent-encoded.",
        schema("Id"),
        "59a47286cfa9a3a73e51e72c",
        required=True,
    ),
    "if_match": _parameter("If-Match", "header", _IF_MATCH, schema("EntityTags"), _TAG),
    "if_none_match": _parameter("If-None-Match", "header", _IF_NONE_MATCH, schema("EntityTags"), "*"),
    "if_changed": _parameter("If-None-Match", "header", _IF_CHANGED, schema("EntityTags"), _TAG),
    "if_still": _parameter("If-Match", "header", _IF_STILL, schema("EntityTags"), _TAG),
    "idempotency_key": _parameter(
        "Idempotency-Key",
        "header",
        _KEY,
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        "0f8fad5b-d9cb-469f-a165-70867728950e",
    ),
    "prefer_representation": _parameter(
        "Prefer", "header", "`return=representation`: respond with `doc` and `patch`.", _TEXT, "return=representation"
    ),
    "prefer": _parameter(
        "Prefer", "header", "`return=minimal`: respond without `doc` and `patch`.", _TEXT, "return=minimal"
    ),
}

HEADERS: Final[Json] = {
    "ETag": {
        "description": "Tag of this state of the document.",
        "schema": schema("EntityTag"),
        "example": _TAG,
    },
    "CurrentETag": {"description": "Tag of the current state.", "schema": _TEXT, "example": _TAG},
    "PageETag": {
        "description": "Tag of a full page, which never changes.",
        "schema": _TEXT,
        "example": '"k3f9ab2c:0-128"',
    },
    "FileETag": {
        "description": "Tag of the file's content.",
        "schema": _TEXT,
        "example": '"37c717f319b001efe1c07d5c2161d9f8"',
    },
    "Location": {
        "description": "Path of the new document.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/v1/collections/theaters/documents/59a47286cfa9a3a73e51e72c",
    },
    "WWWAuthenticate": {
        "description": "The scheme of credentials, and the reason.",
        "schema": _TEXT,
        "example": 'Bearer error="invalid_token", error_description="token_expired"',
    },
    "RetryAfter": {
        "description": "Seconds to wait before the same request.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    },
    "CacheControl": {
        "description": "Past states are immutable; all other responses must be revalidated, or not stored.",
        "schema": _TEXT,
        "example": "public, max-age=31536000, immutable",
    },
}


def parameters(*names: str) -> list[Json]:
    """Return references to shared parameters."""
    return [ref("parameters", name) for name in names]


def headers(*names: str) -> Json:
    """Return references to shared headers, by their names on the wire."""
    spelled = dict.fromkeys(("CurrentETag", "PageETag", "FileETag"), "ETag")
    spelled |= {"RetryAfter": "Retry-After", "CacheControl": "Cache-Control", "WWWAuthenticate": "WWW-Authenticate"}
    return {spelled.get(name, name): ref("headers", name) for name in names}


def content(value: Json, example: Any, media_type: str = JSON) -> Json:
    return {media_type: {"schema": value, "example": example}}


def answer(description: str, body: Json | None = None, *, sent: Json | None = None) -> Json:
    """Return a response; `body` is made by `content`, `sent` by `headers`."""
    response: Json = {"description": description}
    if sent:
        response["headers"] = sent
    if body:
        response["content"] = body
    return response


# --- problems ---------------------------------------------------------------------------------------------------

_DETAILS: Final[Mapping[str, str]] = {
    "malformed": "k3f9ab2c is not a position: expected log:seq",
    "invalid_predicate": "filter.name.$regex: a regular expression is not evaluated; a prefix is $gte and $lt",
    "index_needed": "no index of theaters finds these documents: create one on name",
    "unauthenticated": "the credential has expired",
    "forbidden": "the origin 'https://elsewhere.example' is not allowed; EVENTSYNC_ALLOWED_ORIGINS can allow it",
    "not_found": "there is no document theaters/59a47286cfa9a3a73e51e72c",
    "not_tracked": "the collection 'orders' is not tracked",
    "unknown_shape": "no shape 'my_orders' is declared; `eventsync rules show` lists all",
    "conflict": "theaters/59a47286cfa9a3a73e51e72c lost against other writers",
    "reset": "theaters cannot be continued from k3f9ab2c:128: take a snapshot",
    "gone": "theaters at k3f9ab2c:12 is no longer retained: states are known from k3f9ab2c:100 on",
    "damaged": "an event that this takes is missing in the log, or cannot be read",
    "version_mismatch": f"theaters/59a47286cfa9a3a73e51e72c is {_TAG} now, which the write's conditions exclude",
    "too_large": "the body is over 1048576 bytes",
    "unsupported_media_type": "Content-Type is text/plain; this takes application/json",
    "patch_failed": "operation 0: there is no value at /location/city",
    "too_complex": "the request takes more than 10000000 steps of work; split it up",
    "rate_limited": "a principal has at most 100 tickets; wait until some have ended",
    "unavailable": "there is no event log yet: is a worker running?",
    "overloaded": "a write would take longer than 1 s now; nothing was done",
}
_EXTRA: Final[Mapping[str, Json]] = {
    "version_mismatch": {"current": 7},
    "reset": {"reason": "unknown_log", "oldest": "k3f9ab2c:100", "head": "k3f9ab2c:129"},
    "unauthenticated": {"reason": "token_expired"},
    "gone": {"since": "k3f9ab2c:100"},
}
_ERRORS: Final[Mapping[str, type[errors.EventsyncError]]] = {kind.code: kind for kind in problems.TABLE}


_ANY: Final = ("malformed", "unauthenticated", "forbidden", "unsupported_media_type")
"""Errors of every operation: an unknown query parameter, no credential, a foreign host or origin, an encoded body."""


def failures(*codes: str) -> Json:
    """Return the responses for these error codes and those in `_ANY`, one for each status, and a default."""
    # Also by code: the document, and thus its entity tag, must be the same in all server processes.
    named = sorted({*_ANY, *codes}, key=lambda code: (_status(code), code))
    responses = {str(status): _failure(list(group)) for status, group in groupby(named, key=_status)}
    responses["default"] = answer("Any other failure.", {PROBLEM: {"schema": schema("Problem")}})
    return responses


def _status(code: str) -> int:
    return problems.TABLE[_ERRORS[code]].status.value


def _failure(codes: list[str]) -> Json:
    titles = " / ".join(f"`{code}`: {problems.TABLE[_ERRORS[code]].title}" for code in codes)
    examples = {code: {"value": problem_example(code)} for code in codes}
    body: Json = {PROBLEM: {"schema": schema("Problem"), "examples": examples}}
    return answer(f"{titles}.", body, sent=headers(*_sent(codes)))


def _sent(codes: list[str]) -> Iterator[str]:
    # A 401 has it after a revocation, for a new credential.
    if "unauthenticated" in codes or any(_ERRORS[code].retryable for code in codes):
        yield "RetryAfter"
    if "version_mismatch" in codes:
        yield "CurrentETag"
    if "unauthenticated" in codes:
        yield "WWWAuthenticate"


def problem_example(code: str) -> Json:
    """Return the problem document of an error code."""
    problem = problems.TABLE[_ERRORS[code]]
    shared = problems.problem_document(problem.status, code, _DETAILS[code], title=problem.title)
    return shared | _EXTRA.get(code, {})
