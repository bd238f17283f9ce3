"""`status` and `clients` with `--url`: real commands, which know no MongoDB, against a real server under rules."""

from __future__ import annotations

import json
from pathlib import Path

from eventsync.settings import Settings
from support.environment import environment_with
from support.peers.python import connect
from support.program import Result, finished
from support.ruled import ruled_system
from support.waiting import eventually, patience


async def test_status_and_clients_of_a_server(settings: Settings, tmp_path: Path) -> None:
    given = settings.model_copy(update={"collections": ("open", "things"), "report_interval": 0.25})
    elsewhere = environment_with(mongodb_uri="mongodb://127.0.0.1:1/?replicaSet=none") | {"COLUMNS": "300"}

    async def run(*words: str, token: str | None) -> Result:
        credential = {} if token is None else {"EVENTSYNC_TOKEN": token}
        return await finished(*words, "--url", ruled.url, environment=elsewhere | credential, seconds=patience(60))

    async with ruled_system(given, tmp_path) as ruled, ruled.client("root", roles=["ops"]) as operator:
        token, watcher = ruled.token("root", roles=["ops"]), ruled.token("otto", roles=["watch"])

        async def reported() -> bool:
            found = (await operator.get("/v1/admin/overview")).json()
            return bool(found["servers"] and found["workers"] and found["leader"])

        await eventually(reported, 20)
        shown = await run("status", token=watcher)
        assert shown.exit_code == 0, shown.stderr
        assert "note: one worker runs" in shown.stdout
        assert "leads" in shown.stdout
        tree = json.loads((await run("status", "--json", token=watcher)).stdout)
        assert tree["leader"] in {worker["name"] for worker in tree["workers"]}

        refused = await run("status", token=ruled.token("ada"))
        assert refused.exit_code == 1
        assert "answers 403: this is for the roles" in refused.stderr
        assert "answers 401" in (await run("clients", token=None)).stderr

        async with connect(f"{ruled.url.replace('http', 'ws')}/v1/sync") as socket:
            hello = {"type": "hello", "token": ruled.token("ada"), "shapes": ["open"], "client_id": "billing"}
            await socket.send(json.dumps(hello))
            while json.loads(await socket.recv())["type"] != "live":
                continue
            (line,) = (await run("clients", "--sub", "ada", "--json", token=token)).stdout.splitlines()
            session = json.loads(line)
            assert (session["client_id"], session["shapes"][0]["shape"]) == ("billing", "open")
            table = (await run("clients", token=watcher)).stdout
            assert session["id"] in table
            assert "billing" in table
            assert (await run("clients", "--disconnect", session["id"], token=watcher)).exit_code == 1
            closed = await run("clients", "--disconnect", session["id"], token=token)
            assert closed.stdout == f"closed: {session['id']}\n"
        assert (await run("clients", "--sub", "ada", token=token)).stdout == "no sessions are open\n"
