"""Writers that overload a server, and what became of each of their writes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx

from support.waiting import patience, within

DOCUMENTS = "/v1/collections/docs/documents"


@dataclass
class Overload:
    """`accepted` are the ids of the documents that were created, `others` the answers that are neither."""

    url: str
    accepted: set[str] = field(default_factory=set)
    refused: list[httpx.Response] = field(default_factory=list)
    others: list[httpx.Response] = field(default_factory=list)
    _numbers: int = 0

    async def run(self, *, writers: int, accepted: int, refused: int) -> None:
        """Create documents from so many connections, until there are so many more of each answer."""
        most = (len(self.accepted) + accepted, len(self.refused) + refused)
        limits = httpx.Limits(max_connections=writers)
        async with httpx.AsyncClient(base_url=self.url, timeout=patience(60), limits=limits) as client:

            async def write() -> None:
                while len(self.accepted) < most[0] or len(self.refused) < most[1]:
                    await self._one(client)

            async with within(60), asyncio.TaskGroup() as group:
                for _ in range(writers):
                    group.create_task(write())

    async def _one(self, client: httpx.AsyncClient) -> None:
        self._numbers += 1
        name = f"n{self._numbers}"
        answer = await client.put(f"{DOCUMENTS}/{name}", json={"n": 1})
        if answer.status_code == 201:
            self.accepted.add(name)
        elif answer.status_code == 503 and answer.json()["code"] == "overloaded":
            self.refused.append(answer)
            await asyncio.sleep(0.2)  # a client that does not wait as long as it is asked to
        else:
            self.others.append(answer)
