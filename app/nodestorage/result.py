"""What a write did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import bson

from app.domain.diff import Operation
from app.domain.ids import IdText
from app.domain.values import CODEC, Document, decode


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The document after the write (None after a delete), its version, and the RFC 6902 difference to the one before.

    `patch` holds BSON values and is empty where nothing changed, and after a create or delete. `created`: the document
    was not there before. `replayed`: answered from an idempotency record, nothing was written this time.
    """

    id: IdText
    version: int
    document: Document | None
    patch: list[Operation]
    created: bool = False
    replayed: bool = False


def encode_results(results: Sequence[WriteResult]) -> bytes:
    """Results as one BSON document, types intact. It may be larger than 16 MiB."""
    return bson.encode({str(index): asdict(result) for index, result in enumerate(results)}, codec_options=CODEC)


def decode_results(encoded: bytes) -> list[WriteResult]:
    """What `encode_results` encoded, marked as replayed."""
    stored: Mapping[str, Any] = decode(encoded)
    return [WriteResult(**{**fields, "replayed": True}) for fields in stored.values()]
