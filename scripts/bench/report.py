"""Result of a benchmark: figures of several rounds, as a Markdown page that says which goals they meet."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import bson
import pymongo

Rows = Mapping[str, Mapping[str, Sequence[float]]]
"""Name of a row → column → one value a round. NaN: there is no such figure."""


def empty_rows() -> defaultdict[str, defaultdict[str, list[float]]]:
    """Return rows to add figures to."""
    return defaultdict(lambda: defaultdict(list))


def note(row: defaultdict[str, list[float]], figures: Mapping[str, float]) -> None:
    """Add the figures of a round."""
    for name, value in figures.items():
        row[name].append(value)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same kind."""

    title: str
    explanation: str
    rows: Rows

    def markdown(self) -> str:
        """Return a section. A figure that a row lacks is an empty cell."""
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        head = f"| |{'|'.join(f' {column} ' for column in columns)}|\n|---|{'---|' * len(columns)}\n"
        lines = ((name, "|".join(f" {_spread(row.get(at, ()))} " for at in columns)) for name, row in self.rows.items())
        return f"## {self.title}\n\n{self.explanation}\n\n{head}" + "".join(
            f"| {at} |{cells}|\n" for at, cells in lines
        )


def _spread(values: Sequence[float]) -> str:
    """Return the median, and the least and the most where they differ."""
    if not values or math.isnan(median := statistics.median(values)):
        return ""
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    if min(values) == max(values):
        return f"{median:,.{digits}f}"
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """Limit of the medians of `column`, in the rows of a table whose name begins with `rows`."""

    what: str
    table: str
    rows: str
    column: str
    limit: float
    at_least: bool = False

    def judged(self, tables: Iterable[Table]) -> str:
        """Return a row of Markdown."""
        sign = "≥" if self.at_least else "≤"
        rows = next((table.rows for table in tables if table.title == self.table), {})
        listed = [row[self.column] for name, row in rows.items() if name.startswith(self.rows) and self.column in row]
        found = [median for median in map(statistics.median, listed) if not math.isnan(median)]
        if not found:
            return f"| {self.what} | {sign} {self.limit:g} | not measured | |\n"
        met = [value >= self.limit if self.at_least else value <= self.limit for value in found]
        span = f"{min(found):.2f}" if min(found) == max(found) else f"{min(found):.2f} to {max(found):.2f}"
        judged = "met" if all(met) else "missed" if not any(met) else f"met by {sum(met)} of {len(met)}"
        return f"| {self.what} | {sign} {self.limit:g} | {span} | {judged} |\n"


_GOALS = "| | goal | found | |\n|---|---|---|---|\n"


def page(about: str, command: str, setup: Mapping[str, str], tables: Sequence[Table], goals: Sequence[Goal]) -> str:
    """Return the page of a result. `setup` says what is the same for all figures: counts, sizes, rounds."""
    facts = {**setup, "commit": _commit(), **_machine()}
    text = f"# {about.partition(':')[0]}\n\nMade by `{command}` on {datetime.now(UTC):%Y-%m-%d}. "
    text += "Figures are medians of the rounds, with the least and the most.\n\n"
    text += "".join(f"- {name}: {value}\n" for name, value in facts.items())
    if goals:
        text += f"\n## Goals\n\n{_GOALS}" + "".join(goal.judged(tables) for goal in goals)
    return text + "".join("\n" + table.markdown() for table in tables)


def index(pages: Mapping[str, str], about: Mapping[str, str]) -> str:
    """Return the page about all results: goals met, and when each was made. `about`: benchmark → a line about it."""
    goals, made = "", ""
    for name, page in pages.items():
        section = page.partition(f"## Goals\n\n{_GOALS}")[2].partition("\n\n")[0]
        goals += "".join(f"{row} [{name}]({name}.md) |\n" for row in section.splitlines())
        day = re.search(r"on (\d{4}-\d\d-\d\d)", page)
        made += f"| [{name}]({name}.md) | {day[1] if day else ''} | {about.get(name, '')} |\n"
    return (
        "# Benchmarks\n\nMade by `scripts/bench/run index` of the results beside it. All ran on two shared cores: "
        "ratios within a run\nhold, absolute figures only roughly.\n\n"
        "## Goals\n\nThe least and the most of the rows that a goal is about, each a median of its rounds.\n\n"
        f"| | goal | found | | |\n|---|---|---|---|---|\n{goals}\n"
        f"## Results\n\n| | made | |\n|---|---|---|\n{made}"
    )


def _commit() -> str:
    """Return the commit that is measured, with `-dirty` where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _machine() -> dict[str, str]:
    """Return the facts besides the code that the figures depend on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"(?m)^model name\s*:\s*(.*)$", info.read_text()) if info.exists() else []
    return {
        "processes": "mongod (one node), a worker, a server, the clients and the writer, each a process of its own, "
        "share the CPUs; all over loopback; writes are majority, journaled",
        "machine": f"{os.cpu_count()} CPUs ({(models or ['unknown'])[0]}), {sys.platform} {platform.machine()}",
        "load": f"{os.getloadavg()[1]:.1f} processes at the end, the benchmark's own included (5 minutes' mean)",
        "versions": f"Python {platform.python_version()}, PyMongo {pymongo.version}{'' if bson.has_c() else ' (no C)'}",
    }
