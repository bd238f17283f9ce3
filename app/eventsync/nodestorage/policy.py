"""The bounds that every write keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from eventsync.settings import Settings


def _setting(name: str) -> Any:
    return field(default=Settings.model_fields[name].default, metadata={"setting": name})


@dataclass(slots=True)
class Retries:
    """The number of attempts that were made again after a lost race."""

    count: int = 0

    def add(self) -> None:
        self.count += 1


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """Bounds for writes. Each field has the unit and the default of its setting.

    `attempts` and `deadline` limit the retries of one write against concurrent ones; the first one reached counts.
    A transaction reads at most `transaction_bytes` of stored documents, but always its first document.
    """

    attempts: int = _setting("write_attempts")
    deadline: float = _setting("write_deadline")
    document_bytes: int = _setting("document_bytes")
    patch_operations: int = _setting("patch_operations")
    patch_steps: int = _setting("patch_steps")
    operation_ttl: float = _setting("operation_ttl")
    transaction_operations: int = _setting("transaction_operations")
    transaction_bytes: int = _setting("transaction_bytes")
    batch_concurrency: int = _setting("batch_concurrency")
    operation_keys: int = _setting("operation_keys")
    operation_bytes: int = _setting("operation_bytes")
    groups: int = _setting("write_groups")
    group_operations: int = _setting("write_group_operations")
    group_bytes: int = _setting("write_group_bytes")
    cache_bytes: int = _setting("write_cache_bytes")
    retries: Retries = field(default_factory=Retries, init=False, compare=False)
    """Counts those of the storage that has this policy."""

    @classmethod
    def of(cls, settings: Settings) -> WritePolicy:
        """Return the policy that `settings` describe."""
        bounds = [item for item in fields(cls) if "setting" in item.metadata]
        return cls(**{item.name: getattr(settings, item.metadata["setting"]) for item in bounds})
