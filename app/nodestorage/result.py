"""What a write did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson

from app.domain.ids import IdText
from app.domain.values import CODEC, JsonText, decode


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The document after the write (None after a delete), its version, and the RFC 6902 difference to the one before.

    `patch` holds BSON values and is empty where nothing changed, and after a create or delete. Of a large document both
    are `JsonText`. `created`: the document
    was not there before. `replayed`: answered from an idempotency record, nothing was written this time.
    """

    id: IdText
    version: int
    document: Any
    patch: Any
    created: bool = False
    replayed: bool = False


def encode_results(results: Sequence[WriteResult]) -> bytes:
    """Results as one BSON document, types intact. It may be larger than 16 MiB."""
    return bson.encode({str(index): _stored(result) for index, result in enumerate(results)}, codec_options=CODEC)


def _stored(result: WriteResult) -> dict[str, Any]:
    """No document and no patch is binary data: where there is some, it is a `JsonText`."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: item.text if isinstance(item, JsonText) else item for name, item in fields.items()}


def decode_results(encoded: bytes) -> list[WriteResult]:
    """What `encode_results` encoded, marked as replayed."""
    stored: Mapping[str, Any] = decode(encoded)
    return [WriteResult(**{**_read(fields), "replayed": True}) for fields in stored.values()]


def _read(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: JsonText(item) if isinstance(item, bytes) else item for name, item in fields.items()}
