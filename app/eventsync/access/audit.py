"""The record of refusals, one log line for each kind and a count by reason, and that of operators' actions.

    refused: subject="ada" credential="jti:7f" reason="rule" request="PATCH /v1/collections/{collection}/documents/{id}"
    operator: subject="paul" credential="key:k1" action="disconnect" target="1f0c…"

No line has a token, a value of a document, or a claim but the subject.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from eventsync.domain.access.principal import Principal
from eventsync.errors import EventsyncError, shortened
from eventsync.logging import ACTION, Throttle

logger = logging.getLogger(__name__)

MAX_RECENT: Final = 50
"""Newest refusals that are kept for operators."""

_RECENT_BYTES: Final = 32 * 1024
"""Most bytes of JSON of these, in the record of a server: long texts of few bytes a character all fit."""

_LONGEST: Final = 200
"""Characters of a text in a line. A subject may be as long as a token."""

NOT_GRANTED: Final = "not_granted"
"""The reason word where the principal may read nothing of a collection."""

NOT_OPERATOR: Final = "not_operator"
POLICY: Final = "policy"
"""The reason word of a refusal that has no other."""


class Refusals:
    """The refusals of a server process. Lines of the same subject, reason and request are logged once in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(clock)
        self.recent: deque[dict[str, str | float]] = deque(maxlen=MAX_RECENT)
        """The newest lines: their fields, and the time `at` in Unix seconds."""
        self.counts: Counter[str] = Counter()
        """The number of refusals by reason."""

    def record(self, error: EventsyncError, principal: Principal | None, request: str) -> None:
        """Count a refusal and log it. `request` names what was asked for, and not what is in it.

        Without a `principal`, nobody was authenticated; the error may still name whose credential it was.
        """
        reason = str(getattr(error, "reason", "") or POLICY)
        self.counts[reason] += 1
        subject, credential = (
            (getattr(error, "subject", ""), getattr(error, "credential", ""))
            if principal is None
            else (principal.sub, principal.credential)
        )
        # A client that is refused in a loop must not fill the log.
        if (often := self._throttle.passes((subject, reason, request))) is None:
            return
        fields = {
            "subject": subject,
            "credential": credential,
            "reason": reason,
            "request": request,
        }
        self.recent.append(
            {"at": round(time.time(), 3)} | {name: shortened(text, _LONGEST) for name, text in fields.items()}
        )
        logger.info("refused: %s%s", _line(fields), often)

    def tree(self) -> dict[str, Any]:
        """Return the counts, and the newest lines within `_RECENT_BYTES`, the newest first."""
        lines, size = list[dict[str, str | float]](), 0
        for line in reversed(self.recent):
            size += len(orjson.dumps(line))
            if size > _RECENT_BYTES:
                break
            lines.append(line)
        return {"counts": dict(self.counts), "recent": lines}


class Looks:
    """The record of what operators and observers look into repeatedly, such as the frames of a session."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(clock)

    def record(self, principal: Principal, action: str, target: str) -> None:
        """Log it as `record_action`, once in a minute for each credential, action and target."""
        if self._throttle.passes((principal.sub, principal.credential, action, target)) is not None:
            record_action(principal, action, target)


def record_action(principal: Principal, action: str, target: str) -> None:
    """Log what an operator has done, or an observer has looked into: who, what, and to which target."""
    fields = {"subject": principal.sub, "credential": principal.credential, "action": action, "target": target}
    logger.info(ACTION + "%s", _line(fields))


def _line(fields: Mapping[str, str]) -> str:
    # JSON escapes line breaks, so that no subject can forge a line.
    return " ".join(f"{name}={json.dumps(shortened(text, _LONGEST))}" for name, text in fields.items() if text)
