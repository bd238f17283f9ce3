"""Nemeses by name: faults that strike once and repair what they have done before they return, in bounded time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType, ModuleType

from support.chaos import abusers, breakers, cluster, destroyers, faults
from support.chaos.rig import Rig

Nemesis = Callable[[Rig], Awaitable[None]]


def _of(module: ModuleType) -> dict[str, Nemesis]:
    """Return the public coroutine functions that a module defines."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


NEMESES: Mapping[str, Nemesis] = MappingProxyType(_of(faults) | _of(breakers) | _of(abusers) | _of(destroyers))
REPLICATED = frozenset({"step_down", "kill_secondary", "freeze_secondary", "stall_replication", "isolate_primary"})
"""They take more than one member."""

CLOCKS = frozenset(name for name in NEMESES if name.startswith("jump_"))
DISKS = frozenset({"fill_disk"})
FATAL = frozenset({"lose_history"})
"""They cost the stream its history: the log is repaired then."""

RENEWING = frozenset(_of(destroyers))
"""They destroy the log or turn it back: a new one begins, and `check_renewed` judges the run."""


def known(names: str, *, nodes: int) -> tuple[str, ...]:
    """Return the nemeses that `names` lists, as far as they apply: comma separated, or the name of a set.

    `all`: but those that cost history or the log. `fatal`: those that cost history, too. `renewing`: `all`, and those
    that cost the log. Raises `ValueError`.
    """
    fatal = tuple(name for name in NEMESES if name not in RENEWING)
    ordinary = tuple(name for name in fatal if name not in FATAL)
    sets = {"all": ordinary, "fatal": fatal, "renewing": (*ordinary, *sorted(RENEWING))}
    return tuple(name for name in listed(names, "nemesis", NEMESES, sets) if nodes > 1 or name not in REPLICATED)


def listed(names: str, kind: str, known: Iterable[str], sets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of a list that is comma separated, of one of `sets`, or `none`. Raises `ValueError`."""
    found = () if names == "none" else sets.get(names, tuple(name.strip() for name in names.split(",")))
    if unknown := set(found) - set(known):
        raise ValueError(f"no {kind} is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return found


def unavailable(names: Iterable[str]) -> dict[str, str]:
    """Return those of `names` that this machine can't run, each with the reason."""
    clocks, disks = cluster.clocks_missing(), cluster.disks_missing()
    reasons = dict.fromkeys(CLOCKS, clocks) | dict.fromkeys(DISKS, disks)
    return {name: reason for name in names if (reason := reasons.get(name))}
