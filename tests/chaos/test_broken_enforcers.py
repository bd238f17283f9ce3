"""Enforcers that are broken on purpose: the leak checker finds each by what principals of a running system get."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eventsync.access.live import LiveAccess
from eventsync.api.permissions import Permissions
from eventsync.domain import views
from eventsync.domain.access.guards import BY_RULE, WriteGuard, WriteRules
from eventsync.domain.entity_tag import digest_of
from eventsync.domain.predicates.keys import KEY_BYTES
from eventsync.mongodb.client import Client
from eventsync.nodestorage import Guard, Node, deciding, intent
from eventsync.settings import Settings
from eventsync.stores.snapshots import live_snapshots
from eventsync.sync.live import followed as follow
from support.chaos.evidence import Violation
from support.chaos.leaks.followers import FOLLOWED
from support.chaos.leaks.run import LeakRun
from support.chaos.leaks.scene import COLLECTIONS
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, within

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        # PyMongo leaves the socket of a connect that is cancelled to the garbage collector, and so does websockets.
        "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
    ),
]


@asynccontextmanager
async def run_under_rules(
    client: Client,
    settings: Settings,
    folder: Path,
    *,
    followed: Iterable[tuple[str, str, str]] = FOLLOWED,
    **known: Any,
) -> AsyncIterator[LeakRun]:
    """A worker, a server and principals, with the rules in force."""
    limits: dict[str, Any] = {"heartbeat": 0.3, "window_bytes": 64 * 1024, "frame_bytes": 8 * 1024, "auth_grace": 1.0}
    settings = settings.model_copy(update={"collections": COLLECTIONS, **limits})
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, COLLECTIONS)
        run = LeakRun(client, settings, [("serve", url)], folder, seed=1, followed=followed, **known)
        await run.begin()
        yield run


async def caught(run: LeakRun, is_caught: Callable[[list[Violation]], bool], *, requests: int = 30) -> list[Violation]:
    """Have principals work until the checker has found what it is to find, and return all that it has found.

    It looks each time that so many requests more were made.
    """
    found: list[Violation] = []
    async with within(60), run.at_work(settles=False):
        while not is_caught(found):
            count = run.traffic.count + requests
            await eventually(partial(_is_made, run, count), 60, pause=0.05)
            found = await run.judge()
    return found


def _is_made(run: LeakRun, count: int) -> bool:
    return run.traffic.count >= count


DOORS = frozenset(
    {
        *(f"{transport} events" for transport in ("websocket", "sse", "ticket", "cookie")),
        *("http log", "http snapshot", "websocket snapshot", "websocket squashed"),
        *("GET document", "GET list", "GET snapshot", "POST batch", "POST transaction"),
    }
)
"""Doors that have given content to somebody."""


def said(found: list[Violation]) -> str:
    return "\n".join(violation.message for violation in found)


def seen(found: list[Violation]) -> Counter[str]:
    return Counter(violation.promise for violation in found)


async def test_a_system_that_is_right_passes(client: Client, settings: Settings, tmp_path: Path) -> None:
    async with run_under_rules(client, settings, tmp_path) as run:
        for follower in run.followers:
            follower.far = 0.5
        async with run.at_work():
            # Else nothing is proved.
            await eventually(lambda: run.ledger.doors >= DOORS and run.traffic.count >= 200, 60, pause=0.05)
        found = await run.judge()
    assert found == [], "\n".join(map(str, found))


async def test_a_rule_checked_on_the_state_afterwards_alone(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(guard: WriteGuard, role: WriteRules, change: Any) -> str | None:
        return None if guard._holds(role.update, change.after) else BY_RULE

    monkeypatch.setattr(WriteGuard, "_refuses_update", refuses)
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.take_possession)
        found = await caught(run, lambda found: "ada made a update that no rule allows of" in said(found))
    assert seen(found).keys() == {"permission"}


async def test_a_key_of_views_without_what_decides_them(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So principals share the frames, snapshots and subscribers of each shape.
    monkeypatch.setattr(views, "_key", lambda text, *_: blake2b(text.encode(), digest_size=KEY_BYTES).digest())
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await caught(run, lambda found: bool(seen(found)["leak"]))
    assert seen(found)["leak"]


async def test_a_refresh_that_forgets_the_end_of_the_token(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = LiveAccess.renew

    async def forget(live: LiveAccess, text: str) -> None:
        await renew(live, text)
        live.access.authenticated.principal = replace(live.access.principal, expires=None)

    monkeypatch.setattr(LiveAccess, "renew", forget)
    followed = [(sub, "websocket", shape) for sub in ("root", "ada", "bob") for shape in ("orders", "board")]
    async with run_under_rules(client, settings, tmp_path, followed=followed, lifetime=(-7.0, -5.0)) as run:
        for follower in run.followers:
            follower.cut, follower.refreshes = False, 1
        found = await caught(run, bool)
    assert seen(found).keys() == {"silence"}


async def test_an_answer_repeated_to_another_principal(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Permissions, "scope", "")
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.edit, run.traffic.repeat)
        found = await caught(run, lambda found: "the answer to a request of another subject" in said(found))
    assert seen(found).keys() == {"permission"}


@pytest.mark.parametrize(
    ("place", "name", "kinds"),
    # What a squashed answer has of documents is read as a snapshot is.
    [(follow, "redacted_body", {"events", " log"}), (live_snapshots, "redacted_row", {"snapshot", "squashed"})],
    ids=["events", "snapshots"],
)
async def test_one_kind_of_message_with_what_is_hidden(
    client: Client,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: ModuleType,
    name: str,
    kinds: set[str],
) -> None:
    monkeypatch.setattr(place, name, lambda content, _: content)
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await caught(run, lambda found: bool(seen(found)["leak"]))
    leaks = [violation.message for violation in found if violation.promise == "leak"]
    assert all(any(kind in message for kind in kinds) for message in leaks), leaks


async def test_an_entity_tag_of_hidden_content(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tagged(node: Node, guard: Guard | None) -> Node | None:
        shown = intent.seen(node, guard)
        return None if shown is None else replace(shown, digest=digest_of(node.document))

    monkeypatch.setattr(deciding, "seen", tagged)
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.hide_behind)
        found = await caught(run, bool)
    assert seen(found).keys() == {"leak"}
    assert all("two entity tags for what is shown as the same" in violation.message for violation in found)
