"""eventsync: a sync server for MongoDB that needs nothing but MongoDB.

`asgi` makes an application that can be mounted in a Starlette or FastAPI application:

    import eventsync
    from starlette.applications import Starlette
    from starlette.routing import Mount

    sync = eventsync.asgi(eventsync.Settings(mongodb_uri="mongodb://localhost/?replicaSet=rs0", database="shop"))
    app = Starlette(routes=[Mount("/sync", sync)], lifespan=sync.lifespan)

`NodeStorage` makes versioned writes without a server. The names here load when they are first used, so that commands
and workers start without a web framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["NodeStorage", "Settings", "__version__", "asgi"]

__version__ = "0.1.0"

_HOMES = {"NodeStorage": "eventsync.nodestorage", "Settings": "eventsync.settings", "asgi": "eventsync.mounting"}

if TYPE_CHECKING:
    from eventsync.mounting import asgi
    from eventsync.nodestorage import NodeStorage
    from eventsync.settings import Settings
else:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
