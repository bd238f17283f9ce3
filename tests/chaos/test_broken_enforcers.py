"""Enforcers that are broken on purpose: the leak checker finds each by what principals of a running system get."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
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
from support.waiting import eventually

pytestmark = [
    # Under load the checker still takes a write that a rule change has overtaken for a wrong refusal: not for CI yet.
    pytest.mark.skipif("EVENTSYNC_LEAKS" not in os.environ, reason="EVENTSYNC_LEAKS=1 runs it"),
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
        run = LeakRun(client, settings, lambda: ("serve", url), folder, seed=1, followed=followed, **known)
        await run.begin([url])
        yield run


async def worked(run: LeakRun, requests: int, *, settles: bool = False) -> list[Violation]:
    """Have principals work for so many requests, and judge."""
    async with run.at_work(settles=settles):
        await eventually(lambda: run.traffic.count >= requests, 60, pause=0.05)
    return await run.judge()


def seen(found: list[Violation]) -> Counter[str]:
    return Counter(violation.promise for violation in found)


async def test_a_system_that_is_right_passes(client: Client, settings: Settings, tmp_path: Path) -> None:
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await worked(run, 300, settles=True)
    assert found == [], "\n".join(map(str, found))
    answered = Counter(item.what.partition(" of ")[0] for item in run.ledger.received if item.canaries)
    pushed = {f"{transport} events" for transport in ("websocket", "sse", "ticket")}
    # Else nothing was proved.
    assert pushed | {"http log", "http snapshot", "GET document", "GET list", "websocket snapshot"} <= answered.keys()


async def test_a_rule_checked_on_the_state_afterwards_alone(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(guard: WriteGuard, role: WriteRules, change: Any) -> str | None:
        return None if guard._holds(role.update, change.after) else BY_RULE

    monkeypatch.setattr(WriteGuard, "_refuses_update", refuses)
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.take_possession)
        found = await worked(run, 60)
    assert "ada made a update that no rule allows of" in "\n".join(item.message for item in found)
    assert seen(found).keys() == {"permission"}


async def test_a_key_of_views_without_what_decides_them(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So principals share the frames, snapshots and subscribers of each shape.
    monkeypatch.setattr(views, "_key", lambda text, *_: blake2b(text.encode(), digest_size=KEY_BYTES).digest())
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await worked(run, 60)
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
        async with run.at_work(settles=False):
            await eventually(lambda: any(map(run.is_late, run.ledger.received[-20:])), 40, pause=0.1)
        found = await run.judge()
    assert seen(found).keys() == {"silence"}


async def test_an_answer_repeated_to_another_principal(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Permissions, "scope", "")
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.edit, run.traffic.repeat)
        found = await worked(run, 120)
    assert seen(found)["permission"]
    assert any("the answer to a request of another subject" in violation.message for violation in found)


@pytest.mark.parametrize(
    ("place", "name", "kind"),
    [(follow, "redacted_body", "events"), (live_snapshots, "redacted_row", "snapshot")],
    ids=["events", "snapshots"],
)
async def test_one_kind_of_message_with_what_is_hidden(
    client: Client,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: ModuleType,
    name: str,
    kind: str,
) -> None:
    monkeypatch.setattr(place, name, lambda content, _: content)
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await worked(run, 40)
    leaks = [violation.message for violation in found if violation.promise == "leak"]
    assert leaks
    assert all(kind in message or (kind == "events" and " log" in message) for message in leaks), leaks


async def test_an_entity_tag_of_hidden_content(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tagged(node: Node, guard: Guard | None) -> Node | None:
        shown = intent.seen(node, guard)
        return None if shown is None else replace(shown, digest=digest_of(node.document))

    monkeypatch.setattr(deciding, "seen", tagged)
    async with run_under_rules(client, settings, tmp_path, followed=()) as run:
        run.traffic.only(run.traffic.hide_behind)
        found = await worked(run, 60)
    assert seen(found).keys() == {"leak"}
    assert all("two entity tags for what is shown as the same" in violation.message for violation in found)
