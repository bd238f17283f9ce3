"""No secret, token or hidden value gets into a log, or into an answer to somebody who may not see it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.logging import JsonFormatter, LineFormatter
from support.identity import SECRET
from support.ruled import CANARY, MERGE, THINGS, Ruled
from support.waiting import patience

Json = dict[str, Any]


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Collect every line of every logger in both formats, debug lines, tracebacks and the access log too."""
    text = io.StringIO()
    handlers = [logging.StreamHandler(text), logging.StreamHandler(text)]
    for handler, formatter in zip(handlers, (LineFormatter(), JsonFormatter()), strict=True):
        handler.setFormatter(formatter)
    root, level = logging.getLogger(), logging.getLogger().level
    root.handlers += handlers
    root.setLevel(logging.DEBUG)
    # The driver logs commands with documents at this level, which `configure_logging` switches off. The others are the
    # client's.
    for name in ("pymongo", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield text
    finally:
        root.handlers = [handler for handler in root.handlers if handler not in handlers]
        root.setLevel(level)


@pytest.mark.slow
async def test_logs_and_answers_of_a_run_have_no_secret(
    ruled: Ruled, operator: httpx.AsyncClient, things: AsyncCollection[Json], new_id: Callable[[], str]
) -> None:
    mine, hers, public = new_id(), new_id(), new_id()
    rows: list[Json] = [{"_id": mine, "owner": "ada"}, {"_id": hers, "owner": "bob", "text": f"{CANARY}-text"}]
    rows.append({"_id": public, "owner": "bob", "public": True})
    for row in rows:
        row |= {"secret": f"{CANARY}-{row['_id']}", "lines": [{"cost": CANARY}], "code": f"code-{row['_id']}"}
    good, bad = ruled.token("ada", email="ada@canary.example"), ruled.token("ada", iss="elsewhere", jti="j-1")
    late = ruled.token("ada", exp=1)
    answers: list[bytes] = []

    async def keep(answer: httpx.Response) -> None:
        answers.append(await answer.aread())
        answers.append(str(answer.headers.raw).encode())

    with logged() as log:
        await things.insert_many(rows)
        for credential in (good, bad, late, "esk_abc_def", "canary.token.text", None):
            headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
            hooks: Any = {"response": [keep]}
            async with httpx.AsyncClient(
                base_url=ruled.url, headers=headers, event_hooks=hooks, timeout=patience(20)
            ) as client:
                await every_door(client, mine, hers, public)
        # A violation of a unique index, of which MongoDB quotes the values.
        again = await operator.put(f"{THINGS}/{new_id()}", json={"owner": "x", "secret": f"{CANARY}-{mine}"})
        assert again.status_code == 409
        text = log.getvalue()
    assert "refused: " in text
    assert 'subject="ada"' in text
    # The access log in both formats, with the principal and without the path.
    assert "GET /v1/collections/{collection}/documents/{id} 200 in " in text
    assert '"route": "/v1/collections/{collection}/documents/{id}", "status": "200"' in text
    assert '"subject": "ada"' in text
    assert mine not in "".join(line for line in text.splitlines() if "eventsync.requests" in line)
    told = b"\n".join(answers)
    assert b'"doc"' in told
    for secret in (good, bad, late, SECRET.decode(), good.split(".")[2], "esk_abc_def", "canary"):
        assert secret not in text, secret
    for secret in (good, SECRET.decode(), CANARY, good.split(".")[1]):
        assert secret.encode() not in told, secret


async def every_door(client: httpx.AsyncClient, *ids: str) -> None:
    """Make requests of every kind, most of which are refused."""
    calls: list[tuple[str, str, Json]] = [
        ("GET", "/v1/collections", {}),
        ("GET", THINGS, {}),
        ("GET", THINGS, {"params": {"filter": '{"secret": {"$gt": ""}}'}}),
        ("GET", THINGS, {"params": {"filter": '{"owner": {"$regex": "x"}}'}}),
        ("POST", THINGS, {"json": {"owner": "ada", "secret": 5}}),
        ("POST", THINGS, {"json": {"owner": "bob"}}),
        ("GET", "/metrics", {}),
        ("GET", "/readyz", {}),
        ("GET", "/v1/state-vectors", {}),
        ("GET", "/v1/sync/segments", {}),
        ("GET", "/v1/sync/log", {"params": {"shape": "things", "position": "x:0"}}),
        ("GET", "/v1/sync/snapshot", {"params": {"shape": "closed"}}),
        ("GET", "/v1/sync/sse", {"params": {"shape": "closed", "ticket": "canary-ticket"}}),
    ]
    for at in ids:
        document = f"{THINGS}/{at}"
        calls += [
            ("GET", document, {}),
            ("GET", document, {"params": {"version": 0}}),
            ("GET", f"{document}/diff", {"params": {"from": 0}}),
            ("GET", f"{document}/events", {}),
            ("PATCH", document, {"json": {"secret": 1}, "headers": MERGE}),
            ("PATCH", document, {"json": {"n": 1}, "headers": {**MERGE, "If-Match": '"1.canary"'}}),
            ("PATCH", document, {"json": {"code": f"code-{ids[1]}"}, "headers": MERGE}),
            ("PUT", document, {"json": {"owner": "bob"}}),
            ("DELETE", document, {"headers": {"If-Match": '"77"'}}),
            ("POST", "/v1/transactions", {"json": {"operations": [operation("PATCH", at), operation("DELETE", at)]}}),
            ("POST", f"{THINGS}:batch", {"json": {"operations": [operation("PATCH", at)]}}),
        ]
    for method, path, options in calls:
        await client.request(method, path, **options)


def operation(method: str, at: str) -> Json:
    patch: Json = {"patch": {"lines": []}} if method == "PATCH" else {}
    return {"method": method, "collection": "things", "id": at, **patch}
