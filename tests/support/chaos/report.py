"""Figures of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import orjson

from support.chaos.evidence import Evidence, Violation
from support.chaos.history import History


@dataclass(slots=True)
class Report:
    """Figures of a run, which `command` repeats from the same seed.

    Counts: `faults` by nemesis, `statuses` by HTTP status, `shapes` by name, `outcomes` of faults by text. `fallen`:
    the processes that ended by themselves. `absent`: the nemeses that this machine does not have, and why.
    """

    command: str
    seconds: float = 0.0
    evidence: Evidence = field(default_factory=lambda: Evidence(History(), (), {}))
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    absent: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        history, rows = self.evidence.history, self.evidence.rows
        outcomes = ", ".join(f"{history.count(name)} {name}" for name in ("ok", "failed", "unknown"))
        groups = len({row.group.id for row in rows if row.group})
        kinds = Counter(frame.kind for frame in history.frames)
        lines = [
            f"{self.command}: {self.seconds:.1f} s",
            f"writes: {outcomes}; HTTP {_listed(self.statuses)}",
            f"commits: {len(self.evidence.commits or ())}; events: {len(rows)}, of which {groups} transactions, "
            f"{self.evidence.archived} in the archive",
            f"frames: {_listed(kinds)}",
            f"faults: {sum(self.faults.values())}: {_listed(self.faults)}",
            *(f"UNAVAILABLE {name}: {reason}" for name, reason in sorted(self.absent.items())),
            f"shapes: {_listed(self.shapes) or 'none'}; recorded repairs: {self.evidence.repairs}",
            f"seen: {_listed(self.outcomes) or 'nothing special'}",
            f"ended by themselves: {', '.join(self.fallen) or 'none'}",
            f"violations: {len(self.violations)}",
        ]
        return "\n".join([*lines, *(f"  {violation}" for violation in self.violations)])

    def write(self, file: Path) -> None:
        """The whole evidence, one JSON object a line: what a violation is looked into with."""
        evidence = self.evidence
        with file.open("wb") as out:
            kinds = (evidence.history.writes, evidence.rows, evidence.commits or (), evidence.history.frames)
            for item in chain.from_iterable(kinds):
                line = {"is": type(item).__name__, "what": item}
                out.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))


def _listed(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=str))


class Stage:
    """The present stage of the run that `command` begins; all of them are in `stages.log` in `directory`."""

    def __init__(self, command: str, directory: Path) -> None:
        self._command = command
        self._file = directory / "stages.log"
        self._text = "nothing yet"
        self._since = time.monotonic()

    def enter(self, text: str) -> None:
        """The next stage begins: `text` is what is waited for."""
        self._text, self._since = text, time.monotonic()
        with self._file.open("a") as lines:
            lines.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} {text}\n")

    def __str__(self) -> str:
        return f"{self._command}\nwaited {time.monotonic() - self._since:.0f} s for: {self._text}"
