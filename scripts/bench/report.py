"""What a benchmark found: figures of several rounds, as Markdown for people and JSON for the next comparison."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
        columns = list(next(iter(self.rows.values())))
        head = f"| |{'|'.join(f' {column} ' for column in columns)}|\n|---|{'---|' * len(columns)}\n"
        body = "".join(
            f"| {name} |{'|'.join(f' {spread} ' for spread in row.values())}|\n" for name, row in self.spreads().items()
        )
        return f"## {self.title}\n\n{self.explanation}\n\n{head}{body}"


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
        facts = "".join(f"- {name}: {value}\n" for name, value in (self.setup | machine()).items())
        intro = f"# {self.title}\n\nMade by `{self.command}` on {self.at:%Y-%m-%d}. "
        intro += "Figures are medians of the rounds, with the least and the most.\n\n"
        pictures = "".join(f"\n![{plot.title}]({plot.name}.svg)\n" for plot in self.plots)
        return intro + facts + pictures + "\n" + "\n".join(table.markdown() for table in self.tables)

    def json(self) -> str:
        tables = {
            table.title: {
                name: {column: asdict(spread) for column, spread in row.items() if not math.isnan(spread.median)}
                for name, row in table.spreads().items()
            }
            for table in self.tables
        }
        whole: dict[str, Any] = {"command": self.command, "at": self.at.isoformat(timespec="seconds")}
        whole |= {"setup": self.setup | machine(), "tables": tables}
        if self.plots:
            whole["plots"] = {plot.name: _points(plot) for plot in self.plots}
        return json.dumps(whole, indent=2) + "\n"


def _points(plot: Plot) -> dict[str, list[list[float]]]:
    """Line → its points: x, and the median, the least and the most of y."""
    return {
        name: [[x, spread.median, spread.low, spread.high] for x, spread in line.items()]
        for name, line in plot.spreads().items()
    }


def machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
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
