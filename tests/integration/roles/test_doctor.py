"""The doctor, by users with several roles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eventsync.dev import mongod
from eventsync.settings import Settings
from integration.roles.conftest import (
    PAGE,
    Admin,
    as_user,
    command,
)


async def findings_of(settings: Settings, directory: Path, *words: str) -> tuple[int, list[dict[str, str]]]:
    code, out, _ = await command(settings, directory, "doctor", "--json", *words)
    return code, json.loads(out)["findings"]


async def test_the_doctor_reads_all_with_the_documented_roles_and_names_what_processes_lack(
    admin: Admin, port: int, tmp_path: Path
) -> None:
    admin["shop_eventsync"]["logs"].insert_one({"_id": "k3f9ab2c"})
    page = (PAGE.parent / "doctor.md").read_text()
    (listed,) = re.findall(r"roles: (\[.*?\])\}\)", page)
    _, found = await findings_of(as_user(admin, port, "doctor", json.loads(listed)), tmp_path)
    assert [item for item in found if "not known" in item["found"]] == []
    users = [item for item in found if item["check"] == "user"]
    assert [item["level"] for item in users] == ["problem", "problem"], "it may not write"
    assert "doctor, as worker: lacks changeStream" not in users[0]["found"]
    assert "collMod on shop_eventsync" in users[0]["found"]
    everything = as_user(admin, port, "all", ["eventsync-worker", "eventsync-serve", "clusterMonitor"])
    _, found = await findings_of(everything, tmp_path)
    assert {item["level"] for item in found if item["check"] == "user"} == {"ok"}
    assert admin["shop_eventsync"].list_collection_names() == ["logs"], "nothing was written"


@pytest.mark.parametrize("role", ["worker", "serve"])
async def test_the_doctor_of_a_process_s_own_user_says_what_it_may_not_read(
    admin: Admin, port: int, tmp_path: Path, role: str
) -> None:
    _, found = await findings_of(as_user(admin, port, "own", [f"eventsync-{role}"]), tmp_path, "--role", role)
    levels = {item["check"]: item["level"] for item in found}
    assert (levels["mongodb"], levels["user"], levels["formats"]) == ("ok", "ok", "ok")
    unknown = {item["check"] for item in found if "not known" in item["found"]}
    assert {"oplog", "members", "storage engine", "journal", "disk"} <= unknown
    assert all(item["level"] == "warning" for item in found if item["check"] in unknown)


async def test_the_doctor_says_that_a_password_is_wrong(admin: Admin, port: int, tmp_path: Path) -> None:
    settings = as_user(admin, port, "less", ["eventsync-worker"])
    wrong = f"mongodb://less:wrong-pass-x@127.0.0.1:{port}/?replicaSet={mongod.REPLICA_SET}"
    code, found = await findings_of(settings.model_copy(update={"mongodb_uri": wrong}), tmp_path)
    assert code == 1
    assert (found[0]["check"], found[0]["level"]) == ("mongodb", "problem")
    assert "wrong-pass-x" not in json.dumps(found)
