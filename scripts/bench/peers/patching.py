"""`python -m scripts.bench.peers.patching PORT URI DATABASE`: a plain server that takes merge patches, too.

A PATCH is one `update_one`, majority and journaled, and nothing is checked; one change stream, without a look-up, is
sent to all clients, each with a queue. There is no version, no position, no order between servers, and no bound.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
import uvloop
from pymongo import AsyncMongoClient, WriteConcern
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scripts.bench.crowd.client import SHAPE
from scripts.bench.peers import frames
from scripts.bench.peers.queues import Queues
from scripts.bench.peers.starlette_server import serving, told_to_end


async def main(port: int, uri: str, database: str) -> None:
    """Until the end of the input."""
    seq = 0
    queues = Queues(lambda: frames.live(seq))
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri)
    docs = client[database].get_collection(SHAPE, write_concern=WriteConcern("majority", j=True))

    async def patch(request: Request) -> Response:
        number = int(request.path_params["id"].removeprefix("int:"))
        await docs.update_one({"_id": number}, {"$set": orjson.loads(await request.body())})
        return Response(status_code=204)

    async def watch() -> None:
        nonlocal seq
        async with await docs.watch() as stream:
            watched.set()
            async for change in stream:
                seq += 1
                if change["operationType"] == "insert":
                    message = frames.created(seq, change["fullDocument"])
                else:
                    fields = change["updateDescription"]["updatedFields"]
                    message = frames.changed(seq, change["documentKey"]["_id"], fields)
                queues.put([message.decode()])

    watched = asyncio.Event()
    path = f"/v1/collections/{SHAPE}/documents/{{id}}"
    async with client, serving(queues.endpoint, port, Route(path, patch, methods=["PATCH"])):
        watching = asyncio.create_task(watch(), name="watch")
        await watched.wait()
        await told_to_end()
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
