"""Costs of the same rounds, one over the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Key(NamedTuple):
    """The case that a cost belongs to."""

    system: str
    clients: int
    size: int
    kind: str


Costs = Mapping[Key, list[float]]
"""µs a delivery, one a round."""


def ratios(costs: Costs, kind: str, ours: Sequence[str], others: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """A row for each of ours that was measured beside all the others that there are: theirs name the columns."""
    there = [name for name in others if any(key.system == name and key.kind == kind for key in costs)]
    rows: dict[str, dict[str, list[float]]] = {}
    for key, mine in costs.items():
        beside = {name: costs.get(key._replace(system=name)) for name in there}
        if key.system in ours and key.kind == kind and there:
            found = {f"of {name}": over(mine, theirs) for name, theirs in beside.items() if theirs is not None}
            if len(found) == len(there):
                rows[f"{key.system}, {key.clients:,} of {key.size:,} B"] = found
    return rows


def growth(costs: Costs, least: int, most: int, floor: str) -> dict[str, dict[str, list[float]]]:
    """A row for each system and size: the cost among many clients over that among few, and that over the floor's."""
    rows: dict[str, dict[str, list[float]]] = {}
    for key in costs:
        if key.clients == most and (grown := _grown(costs, key, least)):
            row = rows.setdefault(f"{key.system}, {key.size:,} B", {})
            row[f"{key.kind}, {least:,} → {most:,}"] = grown
            if key.system != floor and (bare := _grown(costs, key._replace(system=floor), least)):
                row[f"{key.kind}, over {floor}"] = over(grown, bare)
    return rows


def _grown(costs: Costs, key: Key, least: int) -> list[float]:
    many, few = costs.get(key), costs.get(key._replace(clients=least))
    return over(many, few) if many and few and key.clients != least else []


def over(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(these, those, strict=True)]
