"""The core of the Python client by the files of `clients/vectors`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

import pytest

from eventsync_client.actions import Acknowledge, Ask, Connect, Refused, Send
from eventsync_client.core import Core, Status, drained
from eventsync_client.patch import same
from eventsync_client.positions import Position
from eventsync_client.replica import RawChange, Row, Update

Json = dict[str, Any]

FOLDER: Final = Path(__file__).parents[3] / "clients" / "vectors"
CASES: Final = {
    f"{path.stem}: {case['name']}": case
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text())["cases"]
}


class Driver:
    """A core, its clock, and what it has done since it was last asked."""

    def __init__(self, case: Json) -> None:
        self.now = 1000.0
        self.has_token = case.get("token", False)
        self.core = Core(
            client_id=case.get("client_id"), has_token=self.has_token, jitter=random.Random(case["name"]).random
        )
        self.sent: list[Json] = []
        self.acknowledged: list[Json] = []
        self.asked: list[str] = []
        self.changes: list[Json] = []
        self.refused: Json | None = None
        self.is_to_connect = False
        for shape in case["shapes"]:
            rows = case.get("documents", {}).get(shape, {})
            documents = {key: Row(row["version"], row["doc"]) for key, row in rows.items()}
            self.core.follow(shape, case.get("vector", {}).get(shape), documents)
        self.core.start(self.now)
        self.drain()

    def drain(self) -> None:
        for action in drained(self.core):
            if isinstance(action, Send):
                self.sent.append(action.message)
            elif isinstance(action, Acknowledge):
                self.acknowledged.append(action.vector)
            elif isinstance(action, Ask):
                self.asked.append(action.why)
            elif isinstance(action, Connect):
                self.is_to_connect = True
            elif isinstance(action, Refused):
                self.refused = action.message
            elif isinstance(action, Update):
                self.changes += map(told, action.changes)
                self.core.durable(action.shape, action.position, self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.core.due) is not None and due <= end:
            self.now = max(self.now, due)
            self.core.tick(self.now)
            self.drain()
        self.now = end

    def until_the_next_attempt(self) -> None:
        if (at := self.core.retry_at) is not None:
            self.wait(max(0.0, at - self.now))

    def step(self, step: Json) -> None:
        match step:
            case {"open": direction}:
                self.open(direction, step.get("token"))
            case {"receive": message}:
                self.core.receive(message, self.now)
            case {"close": {"code": code, "reason": reason}}:
                self.core.closed(code, reason, self.now)
            case {"lost": True}:
                self.core.closed(None, "", self.now)
            case {"wait": milliseconds}:
                self.wait(milliseconds / 1000)
            case {"token": token}:
                self.until_the_next_attempt()
                self.core.token(token, self.now)
            case {"reach": {"log": log, "seq": seq}}:
                self.core.reach(Position(log, seq), self.now)
            case {"follow": shapes}:
                self.follow(shapes)
            case {"expect": expected}:
                self.expect(expected)
        self.drain()

    def open(self, direction: bool | str, token: str | None) -> None:
        self.until_the_next_attempt()
        if token is not None:
            self.core.token(token, self.now)
            self.drain()
        assert self.is_to_connect
        self.is_to_connect = False
        self.core.opened(self.now, two_way=direction is True)

    def follow(self, shapes: list[str]) -> None:
        for shape in set(self.core.shapes) - set(shapes):
            self.core.unfollow(shape)
        for shape in shapes:
            self.core.follow(shape)
        if self.core.status is Status.STOPPED:
            self.core.start(self.now)

    def expect(self, expected: Json) -> None:
        core = self.core
        plain = {
            "status": str(core.status),
            "vector": core.vector,
            "stale": core.stale,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "asked": self.asked,
        }
        for name, value in plain.items():
            if name in expected:
                assert same(value, expected[name]), (name, value)
        assert expected.get("reason", "") in core.reason
        for shape, rows in expected.get("documents", {}).items():
            documents = core.documents(shape)
            held = None if documents is None else {key: row._asdict() for key, row in documents.items()}
            assert same(held, rows), held
        if "changes" in expected:
            listed = [
                {name: change[name] for name in want}
                for change, want in zip(self.changes, expected["changes"], strict=True)
            ]
            assert same(listed, expected["changes"]), self.changes
        if "refused" in expected:
            assert self.refused is not None
            assert same({name: self.refused.get(name) for name in expected["refused"]}, expected["refused"])
        if "reconnect" in expected:
            self.expect_attempt(expected["reconnect"])
        self.sent = [] if "sent" in expected else self.sent
        self.acknowledged = [] if "acknowledged" in expected else self.acknowledged
        self.asked = [] if "asked" in expected else self.asked
        self.changes = [] if "changes" in expected else self.changes

    def expect_attempt(self, expected: Json | None) -> None:
        at = self.core.retry_at
        if expected is None:
            assert at is None
        else:
            low, high = expected["after"]
            assert at is not None
            assert low - 1e-6 <= 1000 * (at - self.now) <= high + 1e-6


def told(change: RawChange) -> Json:
    event = change.event or {}
    return {
        "shape": change.shape,
        "kind": change.kind,
        "id": change.id,
        "source": change.source,
        "before": change.before and change.before._asdict(),
        "after": change.after and change.after._asdict(),
        "enter": event.get("enter", False),
        "leave": event.get("leave", False),
    }


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    driver = Driver(CASES[name])
    for step in CASES[name]["steps"]:
        driver.step(step)
