"""The moves of a Kanban board, each once, in a table of SQLite: `replica.py URL FILE`."""

import asyncio
import sys

from eventsync_client import AsyncClient, Sqlite


async def record(url: str, path: str) -> None:
    async with AsyncClient(url, store=Sqlite(path), client_id="moves") as client:
        async for change in client.shape("cards").changes():
            async with change.transaction() as db:
                db.execute("CREATE TABLE IF NOT EXISTS moves (card TEXT, was TEXT, now TEXT)")
                was, now = ((card or {}).get("column") for card in (change.before, change.after))
                if was != now:
                    db.execute("INSERT INTO moves VALUES (?, ?, ?)", (change.id, was, now))


if __name__ == "__main__":
    asyncio.run(record(*sys.argv[1:]))
