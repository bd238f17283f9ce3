"""The client of eventsync: exact copies of collections, their changes, effects exactly once, and writes.

async with AsyncClient("http://127.0.0.1:8000", store=Sqlite("cards.db")) as client:
    async for change in client.shape("cards").changes():
        async with change.transaction() as db:
            db.execute("INSERT INTO moves VALUES (?, ?)", (change.id, change.kind))
"""

from eventsync_client.client import AsyncClient, Token
from eventsync_client.collection import Collection, Difference, Document, HistoryPage, Moment, Operation, Written
from eventsync_client.core import Status
from eventsync_client.errors import (
    BarrierTimeout,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    InvalidDocument,
    LogReset,
    NotFound,
    OutcomeUnknown,
    RequestError,
    ShapeRefused,
    SyncFailed,
    Unauthenticated,
    VersionMismatch,
)
from eventsync_client.followed import Change, Shape
from eventsync_client.log import EventLog, LogPage
from eventsync_client.models import ModelChange, ModelDocuments, ModelShape
from eventsync_client.store import Memory, Sqlite, Store
from eventsync_client.sync import Client

__all__ = [
    "AsyncClient",
    "BarrierTimeout",
    "Change",
    "Client",
    "ClientError",
    "Collection",
    "Conflict",
    "Difference",
    "Document",
    "EventLog",
    "Forbidden",
    "Gone",
    "HistoryPage",
    "InvalidDocument",
    "LogPage",
    "LogReset",
    "Memory",
    "ModelChange",
    "ModelDocuments",
    "ModelShape",
    "Moment",
    "NotFound",
    "Operation",
    "OutcomeUnknown",
    "RequestError",
    "Shape",
    "ShapeRefused",
    "Sqlite",
    "Status",
    "Store",
    "SyncFailed",
    "Token",
    "Unauthenticated",
    "VersionMismatch",
    "Written",
]

__version__ = "0.1.0"
