"""Processes and commands that meet stored formats of a later version: one line, exit code 65, nothing written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.formats import FORMATS
from eventsync.stores.stores import Stores
from support.environment import command_environment
from support.program import finished
from support.replay import tracked
from support.systems import Processes, running_worker
from support.waiting import patience

RULES = '[shapes.mine]\ncollection = "docs"\nwhere = { owner = "$owner" }\nparameters = { owner = { type = "text" } }\n'
FEW = ["serve --port 0", "worker", "status", "track more"]
OTHERS = [
    "serve --port 0 --workers 2",
    "untrack docs",
    "tail docs",
    "history docs/int:1",
    "diff docs/int:1 1",
    "restore docs --into copy --at 2026-01-01T00:00:00Z",
    "import --collection docs documents.ndjson",
    "snapshot docs",
    "verify",
    "reset-log --yes",
    "rules apply rules.toml",
    "rules show",
    "keys create robot",
    "keys list",
    "revoke --sub ann",
    "migrate",
    "migrate --check",
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",)})


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return command_environment(settings)


async def everything(stores: Stores) -> list[Any]:
    """All that is stored, in both databases."""
    found: list[Any] = []
    for database in (stores.data, stores.log):
        for name in sorted(await database.list_collection_names()):
            found += [(name, str(row)) async for row in database[name].find(sort=[("_id", 1)])]
    return found


async def raised(stores: Stores) -> None:
    """Record what a later version would."""
    await stores.log["deployment"].update_one({"_id": "formats"}, {"$set": {"versions.events": 2, "by": "9.9"}})


@asynccontextmanager
async def prepared(stores: Stores, settings: Settings) -> AsyncIterator[None]:
    async with running_worker(settings):
        await stores.data["docs"].insert_one({"_id": 1})
        await tracked(stores, "docs")
    yield


@pytest.mark.parametrize("commands", [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["few", "others"])
async def test_processes_and_commands_refuse_a_later_format_before_they_write(
    stores: Stores, settings: Settings, environment: dict[str, str], tmp_path: Path, commands: list[str]
) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "documents.ndjson").write_text('{"_id": 7}\n')
    async with prepared(stores, settings):
        await raised(stores)
        before = await everything(stores)
        for command in commands:
            result = await finished(*command.split(), environment=environment, directory=tmp_path, seconds=patience(20))
            lines = [line for line in result.stderr.splitlines() if line.startswith("eventsync: ")]
            assert result.exit_code == 65, (command, result)
            assert len(lines) == 1, (command, result)
            assert "'events' in version 2" in lines[0], command
            assert "migrated by eventsync 9.9; upgrade this process" in lines[0], command
            assert "Traceback" not in result.stderr, command
        assert await everything(stores) == before


@pytest.mark.slow
async def test_processes_that_run_end_when_the_record_is_raised(
    client: Client, stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    processes = Processes(settings, tmp_path)
    try:
        processes.start("worker", "serve")
        await processes.said("worker", " leads")
        await tracked(stores, "docs")
        await processes.said("serve", "listening on")
        await raised(stores)
        codes = await asyncio.gather(*(processes.ended(name, seconds=patience(30)) for name in ("worker", "serve")))
        assert codes == [65, 65]
        for name in ("worker", "serve"):
            assert "what is stored has the format 'events' in version 2" in processes.log(name)
            assert "Traceback" not in processes.log(name)
    finally:
        processes.stop()


async def test_migrate_says_what_it_would_do_and_does_it(
    stores: Stores, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    async def run(*words: str) -> tuple[int, Any]:
        result = await finished(*words, environment=environment, directory=tmp_path, seconds=patience(20))
        return result.exit_code, json.loads(result.stdout)

    async with prepared(stores, settings):
        assert await run("migrate", "--check", "--json") == (0, {"done": False, "steps": []})
        # As a version that did not record them has left it.
        await stores.log["deployment"].delete_one({"_id": "formats"})
        steps = [{"name": name, "before": None, "after": known.newest} for name, known in FORMATS.items()]
        assert await run("migrate", "--check", "--json") == (1, {"done": False, "steps": steps})
        assert await stores.formats.read() is None
        assert await run("migrate", "--json") == (0, {"done": True, "steps": steps})
        assert await run("migrate", "--json") == (0, {"done": True, "steps": []})
        assert await stores.formats.pending() == []
