"""`eventsync rules` and the rules file of `eventsync dev`, against a real replica set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventsync.rules import follower
from eventsync.rules.follower import RulesFollower
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.environment import command_environment
from support.program import Result, finished
from support.replay import began, caught_up
from support.systems import running_worker
from support.waiting import patience, within

RULES = """
[shapes.my_orders]
collection = "orders"
where = { owner = "$owner", status = { "$in" = ["open", "paid"] } }
parameters = { owner = { type = ["text", "int"] } }

[shapes.open_orders]
collection = "orders"
where = { status = "open" }
"""
WRONG = (
    RULES
    + """
[shapes.cheap]
collection = "orders"
where = { price = { "$lt" = "$most" } }
parameters = { most = { type = "number" } }
"""
)

Run = Callable[..., Any]


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """Run `eventsync rules` in the directory of the rules file."""
    (tmp_path / "rules.toml").write_text(RULES)

    async def started(*words: str, **changed: str) -> Result:
        environment = {name: value for name, value in (command_environment(settings) | changed).items() if value}
        return await finished("rules", *words, environment=environment, directory=tmp_path, seconds=patience(20))

    return started


async def test_check_names_scans_and_the_indexes_that_would_help(run: Run, stores: Stores) -> None:
    await stores.data["orders"].insert_one({"owner": "7", "status": "open"})
    result = await run("check")
    assert result.exit_code == 0, result
    assert result.stdout.count("scans orders") == 2
    assert 'an index would help: db.orders.createIndex({"owner": 1})' in result.stderr
    assert 'an index would help: db.orders.createIndex({"status": 1})' in result.stderr
    await stores.data["orders"].create_index("status")
    result = await run("check")
    assert "reads the routes of all values by status_1" in result.stdout
    await stores.data["orders"].create_index("owner")
    await stores.data["orders"].drop_index("status_1")
    by_name = {shape["name"]: shape["reads"] for shape in json.loads((await run("check", "--json")).stdout)["shapes"]}
    assert by_name["my_orders"] == {"scan": False, "text": "uses owner_1", "indexes": ["owner_1"], "wanted": []}
    assert by_name["open_orders"]["scan"]


async def test_check_of_a_collection_that_is_not_there_asks_for_it(run: Run) -> None:
    assert "finds nothing: is there a collection orders?" in (await run("check")).stdout


async def test_an_index_with_a_collation_does_not_serve_a_shape(run: Run, stores: Stores) -> None:
    await stores.data["orders"].create_index("owner", collation={"locale": "en", "strength": 1})
    assert "scans orders" in (await run("check")).stdout


@pytest.mark.parametrize("uri", ["", "mongodb://127.0.0.1:1/?replicaSet=rs0"])
async def test_check_needs_no_database(run: Run, uri: str, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(WRONG)
    changed = {"EVENTSYNC_MONGODB_URI": uri, "EVENTSYNC_MONGODB_TIMEOUT": "0.2", "XDG_STATE_HOME": str(tmp_path)}
    result = await run("check", "other.toml", **changed)
    assert result.exit_code == 1
    assert "shapes.cheap.where.price.$lt: a parameter can't stand in a range" in result.stdout
    assert "my_orders" in result.stdout
    assert "indexes are not checked" in result.stderr


async def test_the_setting_names_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(WRONG)
    result = await run("check", "--json", EVENTSYNC_RULES_FILE="other.toml")
    found = json.loads(result.stdout)
    assert (found["file"], [problem["place"] for problem in found["problems"]]) == (
        "other.toml",
        ["shapes.cheap.where.price.$lt"],
    )


async def test_apply_refuses_a_file_with_a_problem_as_a_whole(run: Run, stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(WRONG)
    result = await run("apply")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the rules file rules.toml can't be applied: shapes.cheap.where.price.$lt:" in result.stderr
    assert (await stores.definitions.read()).shapes == ()


async def test_apply_declares_and_says_what_is_missing(run: Run, stores: Stores) -> None:
    result = await run("apply")
    assert (result.exit_code, result.stdout) == (0, "rules 1: new: my_orders, open_orders\n")
    assert "my_orders waits until orders is tracked: `eventsync track orders`" in result.stderr
    await stores.tracking.ask(["orders"])
    result = await run("apply", "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (1, "rules 1: 2 unchanged\n")
    assert "no worker runs: start `eventsync worker`. The declaration stands" in result.stderr


async def test_apply_waits_until_a_worker_has_activated_the_shapes(
    run: Run, stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    async with running_worker(settings):
        await began(stores, "orders")
        assert (await run("apply")).exit_code == 0
        found = json.loads((await run("show", "--json")).stdout)["shapes"]
        assert [shape["active"] for shape in found] == [True, True]
        await stores.data["orders"].insert_one({"owner": 7})
        log = await caught_up(stores)
        (tmp_path / "rules.toml").write_text(RULES.replace("paid", "due"))
        result = await run("apply")
        assert (result.exit_code, result.stdout) == (0, "rules 2: changed: my_orders; 1 unchanged\n")
        shown = (await run("show")).stdout
    assert f"is active after {log}:1" in shown
    assert f"is active after {log}:0" in shown


async def test_show_lists_what_is_declared(run: Run, stores: Stores) -> None:
    assert (await run("show")).stdout == "no shapes are declared\n"
    await run("apply", "--timeout", "0")
    shown = (await run("show")).stdout
    assert "my_orders    orders      owner: int|text  1      waits until orders is tracked" in shown
    await stores.definitions.refuse([((await stores.definitions.read()).shapes[1], "too odd")])
    found = json.loads((await run("show", "--json")).stdout)
    assert found["number"] == 1
    assert [(shape["name"], shape["active"]) for shape in found["shapes"]] == [
        ("my_orders", False),
        ("open_orders", False),
    ]
    assert found["shapes"][1]["state"] == "is refused: too odd"
    assert (await run("apply")).stdout == "rules 1: 2 unchanged\n"
    assert (await stores.definitions.read()).shapes[1].refused is None, "a worker checks it again"


async def test_explain_shows_filter_keys_and_indexes(run: Run, stores: Stores) -> None:
    await stores.data["orders"].create_index("owner")
    await run("apply", "--timeout", "0")
    found = json.loads((await run("explain", "my_orders?owner=int:7", "--json")).stdout)
    assert found["shape"] == "my_orders?owner=int:7"
    assert found["filter"] == {"owner": {"$eq": 7}, "status": {"$in": ["open", "paid"]}}
    assert found["partitions"] == [["owner"]]
    assert (found["reads"], found["wanted"]) == ("uses owner_1", [])
    assert [len(key) for key in found["keys"]] == [32]
    assert found["keys"][0].startswith(found["scope"])
    assert "uses owner_1" in (await run("explain", "my_orders")).stdout


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("nobody?a=1", "no shape 'nobody' is declared"),
        ("my_orders?owner=bool:true", "my_orders.owner: takes a value of type int"),
        ("my_orders?x=1", "my_orders: takes owner, and not x"),
        ("my_orders?%%", "is no parameter"),
    ],
)
async def test_explain_refuses_other_shapes(run: Run, shape: str, said: str) -> None:
    await run("apply", "--timeout", "0")
    result = await run("explain", shape)
    assert result.exit_code == 1
    assert said in result.stderr


# --- eventsync dev ------------------------------------------------------------------------------------------------


class Said:
    """The lines of a follower."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def say(self, text: str, _: str) -> None:
        self.lines.append(text)
        self._more.set()

    async def until(self, text: str) -> None:
        async with within(10):
            while not (found := [number for number, line in enumerate(self.lines, 1) if text in line]):
                self._more.clear()
                await self._more.wait()
        del self.lines[: found[0]]


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[Said]:
    said = Said()
    task = asyncio.create_task(RulesFollower(settings, said.say).run())
    try:
        yield said
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_dev_applies_the_file_at_its_start_and_after_each_change(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    file = tmp_path / "rules.toml"
    async with following(settings.model_copy(update={"rules_file": file})) as said:
        await said.until("there is no rules file")
        file.write_text(RULES)
        await said.until("rules 1: new: my_orders, open_orders")
        await said.until("orders has shapes and is not tracked: `eventsync track orders`")
        file.write_text(WRONG)
        await said.until("shapes.cheap.where.price.$lt: a parameter can't stand in a range")
        file.write_text("[shapes")
        await said.until("is not TOML")
        assert (await stores.definitions.read()).number == 1
        file.write_text(RULES.partition("[shapes.open_orders]")[0])
        await said.until("rules 2: removed: open_orders; 1 unchanged")
        file.unlink()
        await said.until("is gone; its shapes stay declared")
    assert [shape.name for shape in (await stores.definitions.read()).shapes] == ["my_orders"]


async def test_dev_does_not_apply_a_file_that_is_being_written(
    settings: Settings, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    looks: list[Path] = []

    def look(path: Path) -> tuple[int, int, int]:
        looks.append(path)
        if len(looks) == 4:
            file.write_text("")
        elif len(looks) == 5:
            # As an editor that truncates the file first. Its next bytes come between two looks.
            file.write_text(f"{RULES}# again\n")
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    monkeypatch.setattr(follower, "_version", look)
    monkeypatch.setattr(follower, "_POLL", 0.01)
    async with following(settings.model_copy(update={"rules_file": file})) as said:
        await said.until("rules 1: new: my_orders, open_orders")
        await said.until("rules 1: 2 unchanged")
    assert (await stores.definitions.read()).number == 1


async def test_dev_says_nothing_about_a_default_file_that_is_not_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with following(settings) as said:
        await asyncio.sleep(0)
        assert said.lines == []
        (tmp_path / "rules.toml").write_text(RULES)
        await said.until("rules.toml: rules 1: new")


async def test_dev_tries_again_when_mongodb_is_back(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    gone = {"rules_file": file, "mongodb_uri": "mongodb://127.0.0.1:1/?replicaSet=rs0", "mongodb_timeout": 0.1}
    async with following(settings.model_copy(update=gone)) as said:
        await said.until("the rules are applied later")
        await said.until("the rules are applied later")


async def test_dev_applies_rules_of_access_and_takes_no_auth_away(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[auth]\n[roles]\nuser = true\n[collections.orders.user]\nread = { owner = "$claims.sub" }\n')
    async with following(settings.model_copy(update={"rules_file": file})) as said:
        await said.until("rules 1: [auth] and its rules: new")
        await said.until("orders has rules and is not tracked")
        registry = await stores.definitions.read()
        assert registry.rules is not None
        assert [shape.name for shape in registry.shapes] == [*registry.rules.compiled().definitions]
        for without in ("", RULES):
            file.write_text(without)
            await said.until("the rules in force have [auth]")
            assert await stores.definitions.read() == registry
        # As `eventsync rules apply --open` does.
        await stores.definitions.apply([])
        file.write_text(f"{RULES}# again\n")
        await said.until("new: my_orders, open_orders")
