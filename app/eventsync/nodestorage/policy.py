"""The bounds that every write keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventsync.settings import Settings


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """Bounds for writes. Each field has the unit and the default of its setting.

    `attempts` and `deadline` limit the retries of one write against concurrent ones; the first one reached counts.
    A transaction reads at most `transaction_bytes` of stored documents, but always its first document.
    """

    attempts: int = _default("write_attempts")
    deadline: float = _default("write_deadline")
    document_bytes: int = _default("document_bytes")
    patch_operations: int = _default("patch_operations")
    patch_steps: int = _default("patch_steps")
    operation_ttl: float = _default("operation_ttl")
    transaction_operations: int = _default("transaction_operations")
    transaction_bytes: int = _default("transaction_bytes")
    batch_concurrency: int = _default("batch_concurrency")
    operation_keys: int = _default("operation_keys")
    operation_bytes: int = _default("operation_bytes")
    groups: int = _default("write_groups")
    group_operations: int = _default("write_group_operations")
    group_bytes: int = _default("write_group_bytes")
    cache_bytes: int = _default("write_cache_bytes")

    @classmethod
    def of(cls, settings: Settings) -> WritePolicy:
        """Return the policy that `settings` describe."""
        return cls(
            attempts=settings.write_attempts,
            deadline=settings.write_deadline,
            document_bytes=settings.document_bytes,
            patch_operations=settings.patch_operations,
            patch_steps=settings.patch_steps,
            operation_ttl=settings.operation_ttl,
            transaction_operations=settings.transaction_operations,
            transaction_bytes=settings.transaction_bytes,
            batch_concurrency=settings.batch_concurrency,
            operation_keys=settings.operation_keys,
            operation_bytes=settings.operation_bytes,
            groups=settings.write_groups,
            group_operations=settings.write_group_operations,
            group_bytes=settings.write_group_bytes,
            cache_bytes=settings.write_cache_bytes,
        )
