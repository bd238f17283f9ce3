"""A FastAPI application that serves eventsync below `/sync`, and writes by an endpoint of its own."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

import eventsync
from eventsync.nodestorage import Author

sync = eventsync.asgi()  # with the settings that `eventsync serve` reads
app = FastAPI(title="Kanban", lifespan=sync.lifespan)
app.mount("/sync", sync)


class Card(BaseModel):
    """A card of the board."""

    title: str = Field(min_length=1, max_length=200)
    column: Literal["todo", "doing", "done"] = "todo"
    rank: float = 0.0


@app.post("/cards", status_code=201)
async def add(card: Card) -> dict[str, Any]:
    """Add a card. Clients see it like any other write, by its version and with its author."""
    made = await sync.storage.create("cards", card.model_dump(), author=Author.new("fastapi"))
    return {"id": made.id, "version": made.version}
