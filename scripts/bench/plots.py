"""Draws the plots of a report as SVG files, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from scripts.bench.report import Plot

_SIZE = (7.0, 3.6)
"""Inches."""

_FEW = 20
"""Points of a line that are marked."""


def draw(plots: Sequence[Plot], directory: Path) -> None:
    """Write `NAME.svg` of each plot: medians as lines, from the least to the most as a band."""
    # Without the salt the ids in the file, and without the date its head, would be others each time.
    with mpl.rc_context({"svg.hashsalt": "eventsync", "svg.fonttype": "none", "font.size": 9}):
        for plot in plots:
            figure = Figure(figsize=_SIZE, layout="constrained")
            _fill(figure, plot)
            figure.savefig(directory / f"{plot.name}.svg", metadata={"Date": None})


def _fill(figure: Figure, plot: Plot) -> None:
    axes = figure.add_subplot()
    for name, line in plot.spreads().items():
        xs, spreads = list(line), list(line.values())
        marker = "o" if len(xs) <= _FEW else ""
        (drawn,) = axes.plot(xs, [spread.median for spread in spreads], label=name, marker=marker, markersize=3)
        lows, highs = [spread.low for spread in spreads], [spread.high for spread in spreads]
        if lows != highs:
            axes.fill_between(xs, lows, highs, color=drawn.get_color(), alpha=0.2, linewidth=0)
    if plot.log:
        axes.set_xscale("log")
        xs = sorted({x for line in plot.lines.values() for x in line})
        axes.set_xticks(xs, [f"{x:,.0f}" for x in xs])
        axes.minorticks_off()
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
