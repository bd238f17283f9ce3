"""The public JSON Patch conformance suite through `PATCH` (its origin: tests/data/ORIGIN.md).

Every case runs on a value inside the document, because the suite patches arrays, scalars and roots too; the ones on
objects that leave the root alone run a second time on the document itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

Case = dict[str, Any]
DATA = Path(__file__).parents[1] / "data"
PATCH = {"content-type": "application/json-patch+json"}


def cases() -> Iterator[Case]:
    for name in ("json-patch-tests.json", "json-patch-spec_tests.json"):
        for case in orjson.loads((DATA / name).read_bytes()):
            if not case.get("disabled") and "patch" in case:
                yield case


ALL = list(cases())
ON_OBJECTS = [
    case
    for case in ALL
    if isinstance(case["doc"], dict) and all("" not in (op.get("path"), op.get("from")) for op in case["patch"])
]


def named(case: Case) -> str:
    return str(case.get("comment") or case.get("error") or orjson.dumps(case["patch"]).decode())[:60]


def inside(operation: Any) -> Any:
    """The operation, moved under `/value`."""
    moved = dict(operation)
    for name in ("path", "from"):
        if isinstance(pointer := moved.get(name), str) and (not pointer or pointer.startswith("/")):
            moved[name] = "/value" + pointer
    return moved


async def run(api: httpx.AsyncClient, path: str, patch: Any, expected: Any, *, fails: bool) -> None:
    before = (await api.get(path)).json()
    answer = await api.patch(path, content=orjson.dumps(patch), headers=PATCH)
    after = (await api.get(path)).json()
    if fails:
        assert answer.status_code in {400, 422}, answer.text
        assert answer.json()["code"] in {"malformed", "patch_failed"}
        assert after == before
    else:
        assert answer.status_code == 200, answer.text
        assert after["doc"] == expected


@pytest.mark.parametrize("case", ALL, ids=named)
async def test_suite_on_a_member(api: httpx.AsyncClient, new_id: Callable[[], str], case: Case) -> None:
    path = "/" + new_id()
    await api.put(path, content=orjson.dumps({"value": case["doc"]}), headers={"content-type": "application/json"})
    expected = {"_id": path[1:], "value": case.get("expected", case["doc"])}
    await run(api, path, [inside(operation) for operation in case["patch"]], expected, fails="error" in case)


@pytest.mark.parametrize("case", ON_OBJECTS, ids=named)
async def test_suite_on_the_document(api: httpx.AsyncClient, new_id: Callable[[], str], case: Case) -> None:
    path = "/" + new_id()
    await api.put(path, content=orjson.dumps(case["doc"]), headers={"content-type": "application/json"})
    expected: dict[str, Any] = {"_id": path[1:], **case["expected" if "expected" in case else "doc"]}
    await run(api, path, case["patch"], expected, fails="error" in case)


def test_suite_is_complete() -> None:
    assert len(ALL) == 108
    assert len(ON_OBJECTS) > 60
