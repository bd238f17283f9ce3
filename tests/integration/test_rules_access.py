"""`eventsync rules` with rules of who may read and write, against a real replica set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from eventsync.domain.access.principal import Principal
from eventsync.domain.positions import START
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.documents import joined
from support.environment import command_environment
from support.mutants import ODD, framed
from support.program import Result, finished
from support.replay import began, caught_up
from support.systems import running_worker
from support.waiting import patience

RULES = """
[auth]

[roles]
operator = { roles = "ops" }
user = { sub = { "$exists" = true } }

[collections.orders.user]
read = { "$or" = [{ owner = "$claims.sub" }, { public = true }] }
create = { owner = "$claims.sub" }
update = { owner = "$claims.sub", status = { "$ne" = "closed" } }
hide = ["margin"]
fixed = ["owner"]

[collections."*".operator]
read = true

[shapes.open_orders]
collection = "orders"
where = { status = "open" }
"""
OPEN = RULES[RULES.index("[shapes") :]

CASES = """
[[case]]
name = "an owner pays"
claims = { sub = "ada" }
collection = "orders"
document = { owner = "ada", status = "open", margin = 5 }
operation = "update"
set = { status = "paid" }
expect = "allow"
shows = ["status", "owner"]
hides = ["margin"]

[[case]]
name = "others see nothing"
claims = { sub = "eve" }
collection = "orders"
document = { owner = "ada" }
expect = "deny"

[[case]]
name = "an operator reads"
claims = { sub = "ops", roles = ["ops"] }
collection = "orders"
document = { owner = "ada", margin = 5 }
expect = "allow"
shows = ["margin"]
"""

ADA = '{"sub": "ada"}'

Run = Callable[..., Any]


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """Run `eventsync rules` in the directory of the rules file."""
    environment = command_environment(settings)
    (tmp_path / "rules.toml").write_text(RULES)

    async def started(*words: str) -> Result:
        return await finished("rules", *words, environment=environment, directory=tmp_path, seconds=patience(20))

    return started


async def test_check_names_what_is_probably_not_meant(run: Run, stores: Stores, tmp_path: Path) -> None:
    await stores.data["orders"].insert_one({"owner": "ada", "status": "open"})
    result = await run("check")
    assert result.exit_code == 0, result
    assert "read of user" in result.stdout
    assert "collections.orders: no document of 1 has margin" in result.stderr
    assert "has owner" not in result.stderr
    assert 'an index would help: db.orders.createIndex({"owner": 1})' in result.stderr
    (tmp_path / "other.toml").write_text(
        '[auth]\n[roles]\nstaff = { staff = true }\n[collections.orders.clerk]\nread = true\nhide = ["a"]\n'
        '[collections.orders.guest]\nread = true\nhide = ["b"]\n'
    )
    warnings = json.loads((await run("check", "other.toml", "--json")).stdout)["warnings"]
    assert any("roles.staff: no rule is for this role" in text for text in warnings)
    assert any("clerk has rules and is none of [roles]" in text for text in warnings)
    assert any("clerk and guest hide differently" in text for text in warnings)
    issuer = f'{{ iss = "a", secret_file = "{tmp_path}/secret", algorithms = ["HS256"] }}'
    (tmp_path / "other.toml").write_text(f"[auth]\nissuers = [{issuer}]\n")
    assert f"the secret file {tmp_path}/secret can't be read" in (await run("check", "other.toml")).stderr
    (tmp_path / "other.toml").write_text("[auth]\n")
    assert "[auth] without any rule" in (await run("check", "other.toml")).stderr


async def test_check_refuses_a_claim_that_can_not_be_routed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(
        '[auth]\n[roles]\nuser = true\n[collections.orders.user]\nread = { price = { "$lt" = "$claims.most" } }\n'
    )
    result = await run("check", "other.toml")
    assert result.exit_code == 1
    assert "collections.orders.user.read.price.$lt: a claim can't stand here in a read rule" in result.stdout


async def test_rules_are_applied_with_their_definitions_and_routed_by(
    run: Run, settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    async with running_worker(settings):
        log = await began(stores, "orders")
        result = await run("apply")
        assert result.exit_code == 0, result
        assert result.stdout == "rules 1: new: open_orders; [auth] and its rules: new\n"
        registry = await stores.definitions.read()
        assert registry.rules is not None
        rules = registry.rules.compiled()
        assert all(shape.log is not None for shape in registry.shapes)
        assert {shape.name for shape in registry.shapes} == {"open_orders", *rules.definitions}
        await stores.data["orders"].insert_many(
            [{"_id": 1, "owner": "ada"}, {"_id": 2, "owner": "eve", "public": True}]
        )
        await caught_up(stores)
        grant = rules.grant(Principal("ada", {"sub": "ada"}), "orders")
        assert grant is not None
        keys = frozenset[bytes]().union(*(part.keys for part in grant.parts))
        events = [event async for event in stores.events.read(log, START)]
        assert [event.routes is not None and event.routes.transition(keys) for event in events] == ["stay", "stay"]
    assert (await run("apply")).stdout == "rules 1: 1 unchanged; [auth] and its rules: unchanged\n"
    shown = json.loads((await run("show", "--json")).stdout)
    assert shown["rules"]["number"] == 1
    assert shown["rules"]["collections"]["orders"]["user"]["hide"] == ["margin"]
    assert "orders" in (await run("show")).stdout


async def test_auth_is_not_taken_away_by_a_file_that_lacks_it(run: Run, stores: Stores, tmp_path: Path) -> None:
    assert (await run("apply")).exit_code == 0
    (tmp_path / "rules.toml").write_text(OPEN)
    result = await run("apply")
    assert result.exit_code == 2
    assert "takes it away with --open" in result.stderr
    assert (await stores.definitions.read()).rules is not None
    assert (await run("apply", "--open")).exit_code == 0
    assert (await stores.definitions.read()).rules is None


async def test_cases_are_tried(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cases.toml").write_text(CASES)
    result = await run("test", "cases.toml")
    assert result.exit_code == 0, result
    assert "3 of 3 cases come out as expected" in result.stdout
    (tmp_path / "cases.toml").write_text(
        CASES.replace('"paid"', '"closed"').replace('expect = "deny"', 'expect = "allow"')
    )
    result = await run("test", "cases.toml")
    assert result.exit_code == 1
    assert "an owner pays: update of orders: it is denied" in result.stdout
    assert "others see nothing: read of orders: it is denied (deny: not found)" in result.stdout
    (tmp_path / "cases.toml").write_text('[[case]]\ncollection = "a"\nexpected = "allow"\n')
    result = await run("test", "cases.toml")
    assert result.exit_code == 2
    assert "has expected; there are" in result.stderr


async def test_explain_says_by_which_rule_a_principal_may_and_may_not(run: Run, stores: Stores) -> None:
    await stores.data["orders"].insert_many(
        [{"_id": 1, "owner": "ada", "status": "closed", "margin": 7}, {"_id": 2, "owner": "eve"}]
    )
    result = await run("explain", "orders/int:1", "--as", ADA)
    assert result.exit_code == 1
    assert "no [auth] has been applied" in result.stderr
    mine = json.loads((await run("explain", "orders/int:1", "--as", ADA, "--file", "rules.toml", "--json")).stdout)
    assert mine["may_read"] is True
    assert mine["hidden_here"] == ["/margin"]
    (because,) = mine["because"]
    assert because["read"].startswith('allows it by {"owner":')
    assert because["update"].startswith("does not match")
    assert because["create"].startswith("matches")
    others = json.loads((await run("explain", "orders/int:2", "--as", ADA, "--file", "rules.toml", "--json")).stdout)
    assert others["may_read"] is False
    assert others["because"][0]["read"].startswith("does not match")
    nobody = json.loads((await run("explain", "orders", "--as", "{}", "--file", "rules.toml", "--json")).stdout)
    assert nobody["may_read"] is False
    given = json.loads(
        (await run("explain", "orders", "--as", "{}", "--role", "operator", "--file", "rules.toml", "--json")).stdout
    )
    assert given["may_read"] is True
    refused = framed(bson.encode({"_id": 3, "owner": "ada"})[4:-1], ODD["text that is not UTF-8"])
    await stores.data["orders"].insert_many(
        [RawBSONDocument(refused), joined({"_id": 4, "owner": "bob"}, {"owner": "ada"})]
    )
    for key, may_read in (("int:3", True), ("int:4", False)):
        odd = await run("explain", f"orders/{key}", "--as", ADA, "--file", "rules.toml", "--json")
        assert json.loads(odd.stdout)["may_read"] is may_read, odd
    text = await run("explain", "orders/int:2", "--as", ADA, "--file", "rules.toml")
    assert "user: read" in text.stdout


async def test_diff_replays_the_newest_events_under_both_rules(
    run: Run, settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    async with running_worker(settings):
        await began(stores, "orders")
        assert (await run("apply")).exit_code == 0
        orders = stores.data["orders"]
        await orders.insert_many([{"_id": 1, "owner": "ada"}, {"_id": 2, "owner": "eve"}, {"_id": 3, "owner": "bob"}])
        await orders.update_one({"_id": 2}, {"$set": {"team": "blue"}})
        await caught_up(stores)
    (tmp_path / "new.toml").write_text(RULES.replace("{ public = true }", '{ team = "blue" }'))
    result = await run("diff", "new.toml", "--as", ADA, "--as", '{"sub": "ops", "roles": "ops"}', "--json")
    found = json.loads(result.stdout)
    assert (found["events"], found["unknown"]) == (4, 0)
    ada, ops = found["seen"]
    assert (ada["sub"], ada["both"], ada["more"], ada["less"]) == ("ada", 1, 1, 0)
    assert ada["documents"] == {"orders/int:2": "+"}
    assert (ops["both"], ops["more"], ops["less"]) == (4, 0, 0)
    assert "4 events replayed" in (await run("diff", "new.toml", "--as", ADA, "--events", "10")).stderr
    found = json.loads((await run("diff", "new.toml", "--as", ADA, "--events", "1", "--json")).stdout)
    assert found["events"] == 1
    assert found["seen"][0]["more"] == 1
