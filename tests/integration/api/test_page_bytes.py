"""Pages are bounded in bytes, and their `next` leads to all further items."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from eventsync.settings import Settings
from support.systems import running_system
from support.waiting import patience

PAGE = 20_000
DOCUMENTS = "/v1/collections/docs/documents"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    settings = settings.model_copy(update={"collections": ("docs",), "page_bytes": PAGE})
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(30)) as client:
        yield client


async def pages(api: httpx.AsyncClient, path: str, member: str) -> list[list[dict[str, object]]]:
    """All pages of a listing, each with at most one item more than there is room for."""
    found: list[list[dict[str, object]]] = []
    query = {"limit": "1000"}
    while True:
        answer = (await api.get(path, params=query)).raise_for_status()
        rows = answer.json()[member]
        largest = max((len(str(row)) for row in rows), default=0)
        assert len(answer.content) <= PAGE + largest + 1000
        found.append(rows)
        if "next" not in answer.json():
            return found
        query["after"] = answer.json()["next"]


async def test_page_of_documents_is_bounded_in_bytes(api: httpx.AsyncClient) -> None:
    sizes = [100, 30_000, 5, 15_000, 15_000, 9_000, 9_000, 9_000, 60_000, 1]
    for number, size in enumerate(sizes):
        (await api.put(f"{DOCUMENTS}/d{number}", json={"text": "x" * size})).raise_for_status()
    found = await pages(api, DOCUMENTS, "documents")
    assert [row["id"] for page in found for row in page] == [f"d{number}" for number in range(len(sizes))]
    assert len(found) == 5


async def test_page_of_documents_counts_their_json(api: httpx.AsyncClient) -> None:
    for number in range(4):
        dates = [{"$date": "2026-11-23T05:22:46.405Z"}] * 500
        (await api.put(f"{DOCUMENTS}/d{number}", json={"dates": dates})).raise_for_status()
    found = await pages(api, DOCUMENTS, "documents")
    assert [len(page) for page in found] == [2, 2, 0]


async def test_page_of_history_is_bounded_in_bytes(api: httpx.AsyncClient) -> None:
    for number in range(12):
        made = await api.put(f"{DOCUMENTS}/one", json={"text": str(number) * 5000})
        made.raise_for_status()
    while (await api.get("/v1/collections/docs/documents/one/events?after_version=11")).json()["events"] == []:
        continue
    found = await pages(api, f"{DOCUMENTS}/one/events", "events")
    assert [event["version"] for page in found for event in page] == list(range(1, 13))
    assert len(found) > 2


async def test_page_of_clients_is_bounded_in_bytes(api: httpx.AsyncClient) -> None:
    head = (await api.get("/readyz")).json()["position"]
    vector = {f"docs/{number:050}": head for number in range(100)}
    for number in range(5):
        (await api.put(f"/v1/state-vectors/c{number}", json={"vector": vector})).raise_for_status()
    found = await pages(api, "/v1/state-vectors", "clients")
    assert [client["client_id"] for page in found for client in page] == [f"c{number}" for number in range(5)]
    assert len(found) > 2
