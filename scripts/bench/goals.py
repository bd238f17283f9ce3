"""Goals of the benchmarks, compared with the results that are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Goal:
    """Medians of `column`, in the rows of a table whose name begins with `rows`: none more, or less, than `limit`."""

    what: str
    benchmark: str
    table: str
    rows: str
    column: str
    limit: float
    at_least: bool = False

    def judged(self, results: Mapping[str, Any]) -> str:
        """A row of Markdown; `results`: benchmark → its JSON."""
        sign = "≥" if self.at_least else "≤"
        found = self._found(results)
        if not found:
            return f"| {self.what} | {sign} {self.limit:g} | not measured | |\n"
        met = [value >= self.limit if self.at_least else value <= self.limit for value in found.values()]
        low, high = min(found.values()), max(found.values())
        span = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        said = "met" if all(met) else "missed" if not any(met) else f"met by {sum(met)} of {len(met)}"
        return f"| {self.what} | {sign} {self.limit:g} | {span} | {said} ([{self.benchmark}]({self.benchmark}.md)) |\n"

    def _found(self, results: Mapping[str, Any]) -> dict[str, float]:
        table = results.get(self.benchmark, {}).get("tables", {}).get(self.table, {})
        return {
            name: row[self.column][0]
            for name, row in table.items()
            if name.startswith(self.rows) and self.column in row
        }


_FAN_OUT: Final = ("fan_out", "Ratios, one by one", "eventsync, ")
_HTTP: Final = ("end_to_end", "Ratios", "HTTP → websocket")
_MONGODB: Final = ("end_to_end", "Ratios", "MongoDB → websocket")
_BACKLOG: Final = ("sequencing", "From a backlog", "")
_STORED: Final = ("bootstrap", "Ratios", "stored")
_STORM: Final = ("storm", "Everybody comes back", "websocket")
_MOST: Final = ("writes", "Most writes")
_OPEN: Final = ("writes", "Open loop", "eventsync, 500/s")
_RATIO: Final = ("writes", "Ratios")
_MANY: Final = ("writes", "Most writes", "eventsync, 32 at a time, 200")
_FOREIGN: Final = ("writes", "Foreign writes", "eventsync")

GOALS: Final = (
    Goal("server CPU a delivery, of a bare `transport.write`", *_FAN_OUT, "of bare write", 1.3),
    Goal("… of Starlette's `send_text`", *_FAN_OUT, "of Starlette", 0.6),
    Goal("… of Node's `ws`", *_FAN_OUT, "of Node ws", 1.0),
    Goal("CPU a delivery, 2,000 clients over 100", "fan_out", "Growth", "eventsync", "one by one, 100 → 2,000", 1.15),
    Goal("end to end by HTTP, p50 of the acknowledgement", *_HTTP, "p50 of ack", 2.5),
    Goal("… p99", *_HTTP, "p99 of ack", 3.0),
    Goal("end to end of MongoDB's writes, p50", *_MONGODB, "p50 of ack", 2.5),
    Goal("… p99", *_MONGODB, "p99 of ack", 3.0),
    Goal("patches, over `make_patch`", "conversion", "Patches", "two fields, 4", "times faster", 50.0, at_least=True),
    Goal("… of an item pushed onto an array", "conversion", "Patches", "push, 4", "times faster", 50.0, at_least=True),
    Goal("sequencing a backlog, of a bare reader", *_BACKLOG, "of the reader", 0.5, at_least=True),
    Goal("replay, of row by row", "replay", "Ratios", "hot", "of row by row", 5.0, at_least=True),
    Goal("replay, of joined bodies", "replay", "Ratios", "hot", "of joined bodies", 0.83, at_least=True),
    Goal("bootstrap from what is stored, of a raw `find`", *_STORED, "of find", 0.6, at_least=True),
    Goal("bootstrap that is read, of a raw `find`", "bootstrap", "Ratios", "read", "of find", 0.6, at_least=True),
    Goal("the 50th client, of the first", *_STORED, "the 50th of the first", 0.05),
    Goal("… of one that is read for", *_STORED, "the 50th of one read for", 0.05),
    Goal("an idle WebSocket, KiB", "sessions", "Idle connections", "websocket, 1,000", "KiB each", 25.0),
    Goal("storm of 1,000, s until all are exact", *_STORM, "exact s", 2.0),
    Goal("… the others' p99, of steady", *_STORM, "p99 of steady", 5.0),
    Goal("writes/s, 32 at a time, 50 clients", *_MOST, "eventsync, 32 at a time, 50", "writes/s", 1500, at_least=True),
    Goal("… of plain Starlette's", *_RATIO, "32 at a time, 50", "writes/s of plain", 1.5, at_least=True),
    Goal("CPU of such a write, ms: server", *_MOST, "eventsync, 32 at a time, 50", "server ms", 0.45),
    Goal("… worker", *_MOST, "eventsync, 32 at a time, 50", "worker ms", 0.12),
    Goal("… mongod", *_MOST, "eventsync, 32 at a time, 50", "mongod ms", 0.6),
    Goal("500 writes/s: received p50, ms", *_OPEN, "received p50", 10),
    Goal("… p99", *_OPEN, "received p99", 40),
    Goal("… p99, of plain Starlette's", *_RATIO, "500/s", "received p99 of plain", 1.0),
    Goal("one writer: acknowledged, of plain Starlette's", *_RATIO, "1 at a time", "ack p50 of plain", 1.15),
    Goal("… received, of its own acknowledgement", *_RATIO, "1 at a time", "received of own ack", 1.6),
    Goal("100 writes/s: acknowledged, of plain Starlette's", *_RATIO, "100/s", "ack p50 of plain", 1.15),
    Goal("… received, of its own acknowledgement", *_RATIO, "100/s", "received of own ack", 1.6),
    Goal("deliveries a core-second, 200 clients", *_MANY, "deliveries a core-second", 200_000, at_least=True),
    Goal("another program's `w: 1` write until received, ms", *_FOREIGN, "received p50", 15),
)


_HEAD: Final = "| | goal | found | |\n|---|---|---|---|\n"


def judged(benchmark: str, result: Mapping[str, Any]) -> str:
    """Return the table of a benchmark's goals, compared with its result; nothing if it has none."""
    goals = [goal for goal in GOALS if goal.benchmark == benchmark]
    return "".join(["## Goals\n\n", _HEAD, *(goal.judged({benchmark: result}) for goal in goals)]) if goals else ""


def index(directory: Path, about: Mapping[str, str]) -> str:
    """The page about all results; `about`: benchmark → what it is, in a line."""
    files = {file.stem: json.loads(file.read_text()) for file in sorted(directory.glob("*.json"))}
    text = (
        "# Benchmarks\n\nMade by `scripts/bench/run index` of the results beside it. Each names its machine, with two\n"
    )
    text += "shared cores: ratios within one run hold, absolute figures only roughly.\n\n"
    text += "## Goals\n\nThe least and the most of the rows that a goal is about, each a median of its rounds.\n\n"
    text += _HEAD + "".join(goal.judged(files) for goal in GOALS)
    text += "\n## Results\n\n| | made | |\n|---|---|---|\n"
    for name, found in files.items():
        text += f"| [{name}]({name}.md) | {found['at'][:10]} | {about.get(name, '')} |\n"
    return text
