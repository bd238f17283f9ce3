"""Metrics of every process: its version, its processor time and memory, and the lag of its event loop."""

from __future__ import annotations

import asyncio
import platform
import time
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from eventsync.metrics import catalogue
from eventsync.metrics.figures import Figures
from eventsync.metrics.instruments import FINE, Histogram

_PERIOD: Final = 0.25
"""Seconds between two measurements of the event loop's lag."""

_OF_PROCESS: Final = {metric.name: metric for metric in catalogue.PROCESS}
_COLLECTOR: Final = ProcessCollector(registry=CollectorRegistry())


class LoopLag:
    """Measures how much later than asked for the event loop of this process runs a timer."""

    def __init__(self) -> None:
        self.histogram = Histogram(FINE)

    async def measure(self) -> None:
        """Measure until the task is cancelled."""
        while True:
            due = time.monotonic() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self.histogram.observe(max(0.0, time.monotonic() - due))


def put_loop_lag(figures: Figures, lag: LoopLag) -> None:
    """Add the lag of the event loop."""
    figures.put_histogram(catalogue.LOOP_LAG, lag.histogram)


def put_process(figures: Figures, version: str) -> None:
    """Add what the system says of this process. With thousands of open files that takes milliseconds."""
    figures.put(catalogue.BUILD_INFO, 1, version, platform.python_version())
    for family in _COLLECTOR.collect():
        for sample in family.samples:
            if (metric := _OF_PROCESS.get(sample.name)) is not None:
                figures.put(metric, sample.value)
