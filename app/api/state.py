"""What every handler may use: made once by the lifespan of `app.main`, carried in the ASGI state."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from app.held_bytes import HeldBytes
from app.nodestorage import NodeStorage
from app.offload import Offload
from app.settings import Settings
from app.stores.archive import Archive
from app.sync.operating import Operating
from app.sync.past_reads import PastReads
from app.sync.service import SyncService


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the handlers."""

    settings: Settings
    storage: NodeStorage
    sync: SyncService
    past: PastReads
    archive: Archive
    operating: Operating
    offload: Offload
    held: HeldBytes


def services(connection: HTTPConnection) -> Services:
    """The process's services, as the lifespan left them in `scope["state"]`."""
    found = connection.scope["state"]["services"]
    if not isinstance(found, Services):
        raise TypeError("the application runs without its lifespan")
    return found
