"""Figures of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import orjson

from support.chaos.evidence import Evidence
from support.chaos.violation import Violation


@dataclass(frozen=True, slots=True)
class Report:
    """`faults` by nemesis, `statuses` by HTTP status; `fallen`: which processes ended by themselves.

    `command` runs it again, from the same seed. `shapes`: which were made how often. `outcomes`: what faults have
    brought about. `absent`: the nemeses that this machine does not have, and why.
    """

    command: str
    seconds: float
    evidence: Evidence
    faults: Mapping[str, int]
    statuses: Mapping[int, int]
    violations: Sequence[Violation]
    fallen: Sequence[str] = ()
    shapes: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        history, rows = self.evidence.history, self.evidence.rows
        outcomes = ", ".join(f"{history.count(name)} {name}" for name in ("ok", "failed", "unknown"))
        groups = len({row.group.id for row in rows if row.group})
        kinds = Counter(frame.kind for frame in history.frames)
        lines = [
            f"{self.command}: {self.seconds:.1f} s",
            f"writes: {outcomes}; HTTP {_listed(self.statuses)}",
            f"commits: {len(self.evidence.commits or ())}; events: {len(rows)}, of which {groups} transactions",
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
