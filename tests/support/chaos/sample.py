"""Evidence of an imagined run in which all is right: what the checker's own tests then spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bson.timestamp import Timestamp

from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.events import TransactionPart
from support.chaos.evidence import Commit, Evidence, Kind, LogRow
from support.chaos.history import ALL, Answer, Effect, Frame, History, Key, Via, Write
from support.chaos.log_checks import step

LOG = "log1"
Act = tuple[str, str]
"""(collection/id, `put` or `delete`)."""


class Sample:
    """Each `write` is committed and sequenced at once; `frames` then tells how a client got it all."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.rows: list[LogRow] = []
        self.commits: list[Commit] = []
        self.state: dict[Key, tuple[int, dict[str, Any]]] = {}
        self.repairs = 0

    def write(self, *acts: Act, via: Via = "behind", outcome: Any = "ok", keyed: bool = True) -> Write:
        """One write of all `acts`, of different documents; to delete what is not there is no change.

        `keyed`: through the API, with a key.
        """
        number = len(self.writes) + 1
        operation = f"w{number}"
        changed = [(_key(name), act) for name, act in acts if act == "put" or _key(name) in self.state]
        effects = [
            Effect(key, f"{operation}.{index}" if act == "put" else None)
            for index, (key, act) in enumerate(changed, start=1)
        ]
        transaction = operation if len(effects) > 1 else None
        keyed, answers = keyed and via == "api", []
        for index, effect in enumerate(effects, start=1):
            mark = TransactionPart(operation, index, len(effects)) if transaction else None
            answers.append(self._sequence(operation if keyed else f"own {operation}", effect, via, number, mark))
        told = tuple(answers) if via == "api" and outcome == "ok" else ()
        write = Write(operation, via, tuple(effects), outcome, number, number + 0.5, number, keyed, answers=told)
        self.writes.append(write)
        return write

    def _sequence(self, operation: str, effect: Effect, via: Via, number: int, mark: TransactionPart | None) -> Answer:
        """Commit and sequence one effect of the operation with this id; what the API says about it."""
        seq, was = len(self.rows) + 1, self.state.pop(effect.key, None)
        base = was[0] if was else 0
        version = base + 1 if via == "api" else base
        document = {"_id": effect.key[1], "mark": effect.mark}
        body: dict[str, Any] = {"seq": seq, "collection": effect.key[0], "id": effect.key[1], "base": base}
        body |= {"version": version} | ({"op_id": operation} if via == "api" else {"external": True})
        body |= {"txn": {"id": mark.id, "n": mark.n, "of": mark.of}} if mark else {}
        kind: Kind = "delete" if effect.mark is None else "change" if was else "create"
        if kind == "change":
            body |= {"op": "update", "patch": [{"op": "replace", "path": "/mark", "value": effect.mark}]}
        else:
            body |= {"op": kind} | ({"doc": document} if kind == "create" else {})
        if effect.mark is not None:
            self.state[effect.key] = (version, document)
        self.rows.append(LogRow(LOG, seq, effect.key, f"token{seq}", Timestamp(number, 1), body, mark))
        self.commits.append(Commit(Timestamp(number, 1), effect.key, kind, effect.mark, mark.id if mark else None))
        if effect.mark is None:
            return Answer(effect.key[1], version, patch=())
        tag = entity_tag(version, digest_of(document))
        return Answer(effect.key[1], version, tag, document, body.get("patch", ()))

    def drop(self, collection: str) -> None:
        """A whole collection is dropped: an event for each of its documents."""
        number = len(self.writes) + 1
        operation = f"w{number}"
        for key in sorted(key for key in self.state if key[0] == collection):
            self._sequence(operation, Effect(key, None), "behind", number, None)
            self.commits[-1] = replace(self.commits[-1], whole=True)
        effect = Effect((collection, ALL), None)
        self.writes.append(Write(operation, "behind", (effect,), "ok", number, number + 0.5, number))

    def repair(self, since: int, *, later: bool = True) -> None:
        """Lose the rows after the first `since` events; a repair then tells the documents that differ now.

        `later`: its own time is after the last commit's; else it is the same.
        """
        del self.rows[since:]
        known: dict[Key, tuple[int, Mapping[str, Any]]] = {}
        for row in self.rows:
            step(known, row.key, row.body)
        time = Timestamp(self.commits[-1].time.time, 2 if later else 1)
        for key in sorted(key for key in known.keys() | self.state.keys() if known.get(key) != self.state.get(key)):
            self._tell(key, known.get(key), self.state.get(key), time)
        self.repairs += 1

    def _tell(self, key: Key, was: Any, now: Any, time: Timestamp) -> None:
        seq, base = len(self.rows) + 1, was[0] if was else 0
        body: dict[str, Any] = {"seq": seq, "collection": key[0], "id": key[1], "base": base, "external": True}
        body |= {"version": now[0] if now else base, "op": ("replace" if was else "create") if now else "delete"}
        body |= {"doc": now[1]} if now else {}
        self.rows.append(LogRow(LOG, seq, key, f"repair{self.repairs}", time, body, found=True))

    def frames(self, client: str, shape: str, stops: Sequence[int]) -> list[Frame]:
        """A client that begins with the empty snapshot at 0 and is sent the rest up to each of `stops` in turn."""
        last = len(self.rows)
        inside = {row.seq for row in self.rows if row.group and row.group.n < row.group.of}
        found = [Frame(client, shape, "connect"), Frame(client, shape, "snapshot", end=f"{LOG}:0")]
        start = 0
        for stop in sorted({min(stop, last) for stop in stops} - inside - {0} | {last}):
            events = [dict(row.body) for row in self.rows[start:stop] if row.key[0] == shape]
            frame = Frame(client, shape, "events", f"{LOG}:{start}", f"{LOG}:{stop}", tuple(events))
            found.append(frame)
            start = stop
        return [*found, Frame(client, shape, "live", end=f"{LOG}:{last}"), Frame(client, shape, "end")]

    def evidence(self, *frames: Frame) -> Evidence:
        history = History(tuple(self.writes), frames)
        return Evidence(history, tuple(self.rows), dict(self.state), tuple(self.commits), self.repairs)


def _key(name: str) -> Key:
    collection, _, document = name.partition("/")
    return collection, document
