"""The bounds that every write keeps."""

from __future__ import annotations

from dataclasses import dataclass

from eventsync.settings import Settings


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """`attempts` and `deadline` (seconds) bound one write against concurrent ones; whichever comes first.

    `document_bytes` is the largest BSON document that a write may produce, `patch_operations` and
    `transaction_operations` the most operations in one patch and one transaction, `patch_steps` the most work of one
    patch (see `domain.patches.step_budget`), `transaction_bytes` the most bytes of stored documents that one
    transaction reads
    (its first may exceed it), and `operation_ttl` how long an idempotency key is remembered at least, in seconds.
    `operation_keys` and `operation_bytes` bound what is kept of those keys.
    """

    attempts: int = 100
    deadline: float = 10.0
    document_bytes: int = 15 * 1024 * 1024
    patch_operations: int = 1000
    patch_steps: int = 10_000_000
    operation_ttl: float = 86400.0
    transaction_operations: int = 100
    transaction_bytes: int = 64 * 1024 * 1024
    operation_keys: int = 10_000_000
    operation_bytes: int = 4 * 1024 * 1024 * 1024

    @classmethod
    def of(cls, settings: Settings) -> WritePolicy:
        """The policy that `settings` describe."""
        return cls(
            attempts=settings.write_attempts,
            deadline=settings.write_deadline,
            document_bytes=settings.document_bytes,
            patch_operations=settings.patch_operations,
            patch_steps=settings.patch_steps,
            operation_ttl=settings.operation_ttl,
            transaction_operations=settings.transaction_operations,
            transaction_bytes=settings.transaction_bytes,
            operation_keys=settings.operation_keys,
            operation_bytes=settings.operation_bytes,
        )
