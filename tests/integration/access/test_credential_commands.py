"""`eventsync keys`, `token` and `revoke`, and the start of a server that listens beyond loopback."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventsync.access.tokens import Token
from eventsync.domain.events import timestamp
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support import logs_by_hand
from support.environment import command_environment
from support.identity import PUBLIC, secret_file
from support.program import Result, finished
from support.ruled import DOCS, apply_rules
from support.waiting import patience

Run = Callable[..., Any]
BACKUP = Path(__file__).parents[3] / "docs" / "guides" / "backup.md"


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """Run a command with the test's database."""

    async def started(*words: str, **changed: str) -> Result:
        environment = {name: value for name, value in (command_environment(settings) | changed).items() if value}
        return await finished(*words, environment=environment, directory=tmp_path, seconds=patience(20))

    return started


async def test_a_key_is_printed_once_listed_and_revoked(run: Run, stores: Stores) -> None:
    made = await run("keys", "create", "importer", "--roles", "operator, ops", "--claims", '{"tenant":7}')
    assert made.exit_code == 0, made
    text = made.stdout.strip()
    id_ = text.split("_")[1]
    assert text.startswith("esk_")
    (key,) = await stores.credentials.keys.read()
    assert (key.id, key.roles, key.claims) == (id_, frozenset({"operator", "ops"}), {"tenant": 7})
    assert text.split("_", 2)[2] not in str(await stores.log["service_keys"].find().to_list())
    listed = json.loads((await run("keys", "list", "--json")).stdout)
    assert [(item["id"], item["name"], item["revoked"]) for item in listed] == [(id_, "importer", None)]
    assert (await run("keys", "revoke", id_)).exit_code == 0
    (key,) = await stores.credentials.keys.read()
    assert key.revoked is not None
    assert list(await stores.credentials.revocations.read()) == [f"key:{id_}"]
    missing = await run("revoke", "--key", "0123")
    assert (missing.exit_code, "no service key '0123'" in missing.stderr) == (1, True)
    assert id_ in (await run("keys", "list")).stdout


@pytest.mark.parametrize("words", [("keys", "revoke"), ("revoke", "--key")])
async def test_a_key_is_revoked_by_its_whole_text_which_no_message_repeats(
    run: Run, stores: Stores, words: tuple[str, ...]
) -> None:
    text = (await run("keys", "create", "importer")).stdout.strip()
    (key,) = await stores.credentials.keys.read()
    done = await run(*words, text)
    assert (done.exit_code, done.stdout.strip()) == (0, f"revoked: the service key {key.id}"), done
    (key,) = await stores.credentials.keys.read()
    assert key.revoked is not None
    assert list(await stores.credentials.revocations.read()) == [f"key:{key.id}"]
    missing = await run(*words, "esk_0123_canary")
    assert (missing.exit_code, "no service key '0123'" in missing.stderr) == (1, True)
    assert "canary" not in missing.stdout + missing.stderr


async def test_a_key_with_a_role_that_no_rule_knows_is_not_created(run: Run, stores: Stores, tmp_path: Path) -> None:
    early = await run("keys", "create", "early", "--roles", "user")
    assert (early.exit_code, "no [auth] has been applied" in early.stderr) == (0, True)
    collections = DOCS["collections"] | {"others": {"loader": {"read": True}}}
    await apply_rules(stores, tmp_path, DOCS | {"collections": collections})
    refused = await run("keys", "create", "importer", "--roles", "oprator,user,x")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no rule is for the role 'oprator', 'x': there are loader, operator, user" in refused.stderr
    assert [key.name for key in await stores.credentials.keys.read()] == ["early"]
    # A role of the rules that no claims have is there for keys alone.
    made = await run("keys", "create", "importer", "--roles", "loader,operator")
    assert (made.exit_code, made.stderr) == (0, "")


async def test_wrong_keys_are_not_created(run: Run, stores: Stores) -> None:
    for words in (
        ["x" * 300],
        ["a\nb"],
        ["a", "--claims", "[]"],
        ["a", "--claims", "{"],
        ["a", "--claims", '{"sub":7}'],
    ):
        result = await run("keys", "create", *words)
        assert result.exit_code == 1, result
    assert (await run("keys", "create", "a", EVENTSYNC_SERVICE_KEYS="1")).exit_code == 0
    full = await run("keys", "create", "b", EVENTSYNC_SERVICE_KEYS="1")
    assert (full.exit_code, "EVENTSYNC_SERVICE_KEYS" in full.stderr) == (1, True)
    assert len(await stores.credentials.keys.read()) == 1


async def test_a_token_is_minted_by_the_applied_rules(run: Run, stores: Stores, tmp_path: Path) -> None:
    refused = await run("token", "--sub", "ada")
    assert (refused.exit_code, "no [auth] has been applied" in refused.stderr) == (2, True)
    await apply_rules(stores, tmp_path)
    made = await run("token", "--sub", "ada", "--claims", '{"groups":["blue"]}', "--expires-in", "60")
    assert made.exit_code == 0, made
    token = Token.parse(made.stdout.strip())
    assert (token.claims["sub"], token.claims["groups"]) == ("ada", ["blue"])
    principal = token.principal((await rules_of(stores)).auth.issuers[0], now=time.time(), max_lifetime=60)
    assert principal.sub == "ada"
    for words in (["--claims", '{"exp":1}'], ["--claims", "7"], ["--issuer", "another"], ["--expires-in", "1e9"]):
        assert (await run("token", "--sub", "ada", *words)).exit_code in {1, 2}
    unclosed = await run("token", "--sub", "ada", "--claims", "{a")
    assert "--claims: not valid JSON" in unclosed.stderr
    (tmp_path / "secret").chmod(0o644)
    opened = await run("token", "--sub", "ada")
    assert (opened.exit_code, "chmod 600" in opened.stderr) == (2, True)
    secret_file(tmp_path, PUBLIC)
    public = await run("token", "--sub", "ada")
    assert (public.exit_code, "public key or certificate" in public.stderr) == (2, True), public


async def test_a_token_is_refused_where_there_is_no_shared_secret(run: Run, stores: Stores, tmp_path: Path) -> None:
    provider = {"iss": "provider", "jwks": "http://127.0.0.1:9/jwks", "aud": "shop", "algorithms": ["ES256"]}
    await apply_rules(stores, tmp_path, DOCS | {"auth": {"issuers": [provider]}})
    refused = await run("token", "--sub", "ada")
    assert (refused.exit_code, "no shared secret" in refused.stderr) == (2, True)


async def rules_of(stores: Stores) -> Any:
    rules = (await stores.definitions.read()).rules
    assert rules is not None
    return rules.compiled()


async def test_revocations_name_a_subject_a_token_or_a_jti(run: Run, stores: Stores, tmp_path: Path) -> None:
    await apply_rules(stores, tmp_path)
    text = (await run("token", "--sub", "ada")).stdout.strip()
    for words in (["--sub", "ada"], ["--token", text], ["--token", "t-1"]):
        result = await run("revoke", *words)
        assert result.exit_code == 0, result
        assert text not in result.stdout
    assert set(await stores.credentials.revocations.read()) == {"sub:ada", Token.parse(text).id, "jti:t-1"}
    secrets = ("esk_0123_secret", "est_secret", text[:100], f"Bearer {text[:100]}")
    for words in ([], ["--sub", "a", "--key", "b"], ["--token", "x" * 300], *(["--token", each] for each in secrets)):
        assert (await run("revoke", *words)).exit_code == 1
    assert len(await stores.credentials.revocations.read()) == 3
    assert (await run("revoke", "--sub", "eve", EVENTSYNC_MAX_REVOCATIONS="3")).exit_code == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_a_server_without_rules_does_not_start_beyond_loopback(run: Run, host: str) -> None:
    refused = await run("serve", "--host", host, "--port", "0")
    assert refused.exit_code == 2
    assert "EVENTSYNC_ALLOW_UNAUTHENTICATED=true" in refused.stderr


async def test_a_key_that_was_edited_by_hand_is_left_out_and_harms_no_other(stores: Stores) -> None:
    keys = stores.credentials.keys
    good, _ = await keys.create("good", roles=frozenset(), claims={}, expires=None)
    bad, _ = await keys.create("bad", roles=frozenset(), claims={}, expires=None)
    for wrong in ({"claims": 7}, {"claims": "["}, {"expires": "soon"}, {"roles": 7}, {"hash": None}):
        await stores.log["service_keys"].update_one({"_id": bad.id}, {"$set": wrong})
        assert [key.id for key in await keys.read()] == [good.id]
        with pytest.raises(Unavailable):
            await keys.find(bad.id)


async def test_restored_access_is_named_and_put_right_as_the_guide_says(
    run: Run, stores: Stores, tmp_path: Path
) -> None:
    """A backup has the rules and revocations of its time, and a new log does not change that."""
    (block,) = re.findall(r"^```sh\n(eventsync rules apply.*?)^```", BACKUP.read_text(), re.DOTALL | re.MULTILINE)
    await logs_by_hand.begun(stores, "docs")
    text = (await run("reset-log", "--yes")).stderr
    assert "no rules are in force, and nothing is revoked" in text
    assert (await run("keys", "create", "reports")).exit_code == 0
    (key,) = await stores.credentials.keys.read()
    await apply_rules(stores, tmp_path)
    backup = {name: await stores.log[name].find().to_list() for name in ("shapes", "service_keys", "revocations")}

    (tmp_path / "rules.toml").write_text(
        f'[auth]\nissuers = [{{ iss = "backend", secret_file = "{tmp_path}/secret", algorithms = ["HS256"] }}]\n'
        "[roles]\nuser = true\n[collections.docs.user]\nread = false\n"
    )

    async def put_right() -> None:
        for line in block.splitlines():
            _, *words = line.partition("#")[0].replace(" ID", f" {key.id}").split()
            done = await run(*words)
            assert done.exit_code == 0, (words, done)

    async def in_force() -> tuple[str, bool, bool]:
        rules = (await stores.definitions.read()).rules
        (found,) = await stores.credentials.keys.read()
        assert rules is not None
        return rules.spec, found.revoked is not None, "sub:ben" in await stores.credentials.revocations.read()

    await put_right()
    right = await in_force()
    assert right[1:] == (True, True)
    newest = await stores.credentials.newest_revocation()
    assert newest is not None
    assert f"rules 2 are in force, newest revocation {timestamp(newest)}" in (await run("reset-log", "--yes")).stderr

    for name, rows in backup.items():
        await stores.log[name].delete_many({})
        if rows:
            await stores.log[name].insert_many(rows)
    assert await in_force() != right
    text = (await run("reset-log", "--yes")).stderr
    assert "rules 1 are in force, and nothing is revoked" in text
    assert "docs/guides/backup.md" in text
    await put_right()
    assert await in_force() == right
