"""Results of a benchmark: figures of several rounds, as Markdown for people and JSON for the next comparison."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pymongo


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        listed = list(values)  # NaN: there is no such figure
        return cls(statistics.median(listed), min(listed), max(listed))

    def __str__(self) -> str:
        if math.isnan(self.median):
            return ""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by name; each has the same figures: column → one value a round."""

    title: str
    explanation: str
    rows: Mapping[str, Mapping[str, Sequence[float]]]

    def spreads(self) -> dict[str, dict[str, Spread]]:
        return {name: {column: Spread.of(values) for column, values in row.items()} for name, row in self.rows.items()}

    def markdown(self) -> str:
        return f"## {self.title}\n\n{self.explanation}\n\n{_cells(self.spreads())}"


def _cells(rows: Mapping[str, Mapping[str, Spread]]) -> str:
    """Return a Markdown table. A figure that a row lacks is an empty cell, and never one of the next column's."""
    columns = _columns(row.keys() for row in rows.values())
    head = f"| |{'|'.join(f' {column} ' for column in columns)}|\n|---|{'---|' * len(columns)}\n"
    lines = ((name, "|".join(_cell(row.get(column)) for column in columns)) for name, row in rows.items())
    return head + "".join(f"| {name} |{cells}|\n" for name, cells in lines)


def _cell(spread: Spread | None) -> str:
    return "  " if spread is None else f" {spread} "


def _columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the columns of all rows; one that only some have stands where those have it."""
    columns: list[str] = []
    for row in rows:
        at = 0
        for column in row:
            if column not in columns:
                columns.insert(at, column)
            at = columns.index(column) + 1
    return columns


def retabled(page: str, kept: Mapping[str, Any]) -> str:
    """Return a page with its tables written anew from the figures kept in JSON; its words stay."""
    parts = re.split(r"(?m)^(?=## )", page)
    return "".join(_retabled(part, kept["tables"]) for part in parts)


def _retabled(part: str, tables: Mapping[str, Any]) -> str:
    title = part.partition("\n")[0].removeprefix("## ")
    if title not in tables:
        return part
    rows = {name: {at: Spread(*spread) for at, spread in row.items()} for name, row in tables[title].items()}
    return re.sub(r"(?m)(?:^\|.*\n)+", lambda _: _cells(rows), part, count=1)


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines by name: x → one value a round. `name` is that of its file."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Mapping[float, Sequence[float]]]
    log: bool = False
    """Whether x goes by powers."""

    def spreads(self) -> dict[str, dict[float, Spread]]:
        return {name: {x: Spread.of(values) for x, values in sorted(line.items())} for name, line in self.lines.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """A whole result. `setup` says what is the same for all figures: counts, sizes, the write concern."""

    title: str
    command: str
    setup: dict[str, str]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def markdown(self) -> str:
        facts = "".join(
            f"- {name}: {value}\n" for name, value in (self.setup | {"commit": commit()} | machine()).items()
        )
        intro = f"# {self.title}\n\nMade by `{self.command}` on {self.at:%Y-%m-%d}. "
        intro += "Figures are medians of the rounds, with the least and the most.\n\n"
        drawn = "\nPlots: `scripts/bench/run plots` draws them of the kept figures.\n" if self.plots else ""
        return intro + facts + drawn + "\n" + "\n".join(table.markdown() for table in self.tables)

    def json(self) -> str:
        """Return the figures as JSON, one line a row: each column as the median, the least and the most."""
        head = {"command": self.command, "at": self.at.isoformat(timespec="seconds"), "setup": self._setup()}
        tables = {
            table.title: {
                name: {column: _kept(spread) for column, spread in row.items() if not math.isnan(spread.median)}
                for name, row in table.spreads().items()
            }
            for table in self.tables
        }
        plots = {
            plot.name: {
                "about": {"title": plot.title, "x": plot.x, "y": plot.y, "log": plot.log},
                **{name: [[x, *_kept(spread)] for x, spread in line.items()] for name, line in plot.spreads().items()},
            }
            for plot in self.plots
        }
        return written(head | {"tables": tables} | ({"plots": plots} if plots else {}))

    def _setup(self) -> dict[str, str]:
        return self.setup | {"commit": commit()} | machine()


def written(result: Mapping[str, Any]) -> str:
    """Return a kept result as JSON in which each row of a table, and each line of a plot, is one line."""
    parts = [f"{json.dumps(name)}: {json.dumps(result[name])}" for name in ("command", "at", "setup")]
    parts += [f"{json.dumps(part)}: {_by_row(result[part])}" for part in ("tables", "plots") if part in result]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _by_row(groups: Mapping[str, Mapping[str, Any]]) -> str:
    texts = (
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(row)}: {json.dumps(at)}" for row, at in rows.items())
        + "}"
        for name, rows in groups.items()
    )
    return "{\n" + ",\n".join(texts) + "}"


def _kept(spread: Spread) -> list[float]:
    return [float(f"{value:.9g}") for value in (spread.median, spread.low, spread.high)]


def plots_of(result: Mapping[str, Any]) -> list[Plot]:
    """Return the plots of a kept result, to be drawn."""
    return [
        Plot(
            name,
            **kept["about"],
            lines={line: {x: ys for x, *ys in at} for line, at in kept.items() if line != "about"},
        )
        for name, kept in result.get("plots", {}).items()
    ]


def commit() -> str:
    """Return the commit that is measured, with `-dirty` where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def machine() -> dict[str, str]:
    """Return the facts besides the code that the figures depend on."""
    versions = {"Python": platform.python_version(), "PyMongo": f"{pymongo.version}{'' if bson.has_c() else ' (no C)'}"}
    return {
        "machine": f"{os.cpu_count()} CPUs ({_cpu_model()}), {sys.platform} {platform.machine()}",
        "load": f"{os.getloadavg()[1]:.1f} processes at the end, the benchmark's own three included (5 minutes' mean)",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
