"""Speed of making a patch from two images, beside the library that is commonly used for it.

One process and no database: documents of several sizes, changes of several kinds. Each patch, of either, is applied and
compared with the state after the change.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jsonpatch

from eventsync.domain.patches.diff import Touched, diff
from eventsync.domain.values.extended_json import to_json
from scripts.bench.load import document
from scripts.bench.report import Report, Table

Document = dict[str, Any]

SIZES: Final = (300, 1024, 4096, 16 * 1024)

_TEXT: Final = """\
µs a change. *diff*: ours, told by MongoDB which fields and items an update has touched, as the worker is; *diff,
untold*: of the two documents alone; *make_patch*: `jsonpatch.make_patch` of the same two as plain JSON. *times faster*:
that, over *diff*. Goal: 50 times at 4 KiB."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Patches from images, beside jsonpatch."""
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each figure is measured (0.3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Raises `ValueError` where a patch does not lead from one state to the other."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for size in SIZES:
            for name, change in CHANGES.items():
                for column, value in _measured(size, change, options.seconds).items():
                    rows[f"{name}, {size:,} B"][column].append(value)
    return Report(
        "Conversion",
        "scripts/bench/run conversion",
        {"documents": "as the sequencing benchmark has them", "rounds": str(options.rounds)},
        [Table("Patches", _TEXT, rows)],
    )


def _two_fields(made: Document) -> Touched:
    made["status"] = "paid"
    made["address"]["city"] = "Newtown"
    return {"status": 0, "address": 0}


def _push(made: Document) -> Touched:
    made["lines"].append({"sku": "new", "qty": 1, "price": 0.5})
    return {"lines": len(made["lines"]) - 1}


def _pull(made: Document) -> Touched:
    middle = len(made["lines"]) // 2
    made["lines"].pop(middle)
    return {"lines": middle}


CHANGES: Final[Mapping[str, Callable[[Document], Touched]]] = {
    "two fields": _two_fields,
    "push": _push,
    "pull from the middle": _pull,
}


def _measured(size: int, change: Callable[[Document], Touched], seconds: float) -> dict[str, float]:
    before = document(1, size)
    if len(before["lines"]) < 2:
        before["lines"] = [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}]
    after = copy.deepcopy(before)
    touched = change(after)
    plain_before, plain_after = json.loads(to_json(before)), json.loads(to_json(after))
    _check(json.loads(to_json(diff(before, after, touched))), plain_before, plain_after)
    _check(jsonpatch.make_patch(plain_before, plain_after).patch, plain_before, plain_after)
    told = _time(lambda: diff(before, after, touched), seconds)
    untold = _time(lambda: diff(before, after), seconds)
    library = _time(lambda: jsonpatch.make_patch(plain_before, plain_after), seconds)
    return {"diff": told, "diff, untold": untold, "make_patch": library, "times faster": library / told}


def _check(patch: Sequence[Any], before: Any, after: Any) -> None:
    if jsonpatch.apply_patch(before, patch) != after:
        raise ValueError(f"{patch} does not lead from {before} to {after}")


def _time(work: Callable[[], object], seconds: float) -> float:
    """µs for one call."""
    count, end = 0, time.perf_counter() + seconds
    began = time.process_time()
    while time.perf_counter() < end:
        for _ in range(10):
            work()
        count += 10
    return (time.process_time() - began) / count * 1e6
