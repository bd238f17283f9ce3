"""Private parts of libraries, which their authors may change in any release: each is named, and has to be there.

A name that is missing here means that the new release needs work before its upper bound in pyproject.toml is raised.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from anyio._backends._asyncio import AsyncIOBackend
from packaging.requirements import Requirement
from pymongo import AsyncMongoClient
from pymongo.asynchronous.pool import AsyncConnection, Pool
from pymongo.asynchronous.server import Server as MongodbServer
from pymongo.asynchronous.topology import Topology
from pymongo.message import _OpMsg
from pymongo.network_layer import AsyncNetworkingInterface, PyMongoProtocol
from pymongo.pool_shared import _CancellationContext
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import Server as UvicornServer
from uvicorn.server import ServerState
from websockets.protocol import Protocol

from eventsync.mongodb.client import PinnedClient
from eventsync.mongodb.connections import TasklessConnection, TasklessPool
from eventsync.server.bounded_input import BoundedInput, FirstRequest, _Flow
from eventsync.server.http_protocol import HttpProtocol
from eventsync.server.uvicorn_server import Server
from eventsync.server.websocket_protocol import WebSocketProtocol

ROOT = Path(__file__).parents[2]

CAPPED = ("pymongo", "uvicorn", "websockets")

EXTENDED: list[tuple[type, tuple[type, ...], str]] = [
    (
        HttpToolsProtocol,
        (HttpProtocol, BoundedInput, FirstRequest),
        "client connection_lost connection_made connections cycle data_received flow handle_websocket_upgrade headers "
        "loop on_header on_headers_complete on_message_begin on_message_complete on_response_complete parser scope "
        "send_400_response server_state shutdown timeout_keep_alive timeout_keep_alive_handler timeout_keep_alive_task "
        "transport url _unset_keepalive_if_required",
    ),
    (
        WebSocketsSansIOProtocol,
        (WebSocketProtocol,),
        "app app_state asgi_version client close_sent close_timeout close_timer config conn connection_lost "
        "connection_made connections curr_msg_data_type data_received default_headers disconnected frames handle_cont "
        "handle_parser_exception handle_ping handshake_complete handshake_initiated initial_response keepalive_timeout "
        "last_ping_rtt logger loop pending_ping_payload ping_interval ping_sent_at ping_timeout ping_timer pong_timer "
        "queue read_paused receive request response root_path run_asgi scheme scope send send_keepalive_ping "
        "send_receive_event_to_app server start_keepalive tasks transport writable",
    ),
    (
        UvicornServer,
        (Server,),
        "config force_exit handle_exit lifespan server_state should_exit shutdown started startup",
    ),
    (FlowControl, (_Flow,), "read_paused resume_reading"),
    (AsyncMongoClient, (PinnedClient,), "_checkout _conn_for_writes"),
    (
        AsyncConnection,
        (TasklessConnection,),
        "_raise_connection_failure cancel_context close_conn conn max_bson_size max_message_size receive_message "
        "send_message",
    ),
    (Pool, (TasklessPool,), "active_contexts connect is_sdam"),
]
"""Classes that ours extend, and the names of them that ours use or override."""

PARTS: dict[type, str] = {
    RequestResponseCycle: "body chunked_encoding disconnected keep_alive message_event response_complete "
    "response_started scope transport",
    ServerState: "connections default_headers",
    FlowControl: "pause_reading read_paused resume_reading write_paused",
    Protocol: "data_to_send send_close state",
    AsyncMongoClient: "_conn_for_writes _topology",
    Topology: "_servers",
    MongodbServer: "pool",
    Pool: "reset_without_pause",
    _OpMsg: "payload_document unpack",
    AsyncConnection: "address conn max_wire_version opts receive_message send_message set_conn_timeout",
    AsyncNetworkingInterface: "get_conn",
    PyMongoProtocol: "close gettimeout read write",
    _CancellationContext: "cancelled",
    AsyncIOBackend: "create_test_runner",
}
"""Names that our code uses of objects of these classes."""

NAMES = (
    "uvicorn.protocols.http.flow_control:HIGH_WATER_LIMIT",
    "websockets.frames:CloseCode.INVALID_DATA",
    "websockets.frames:Frame",
    "websockets.protocol:State.OPEN",
    "websockets.utils:accept_key",
    "anyio.abc:TestRunner",
    "pymongo._csot:get_deadline",
    "pymongo._csot:get_timeout",
    "pymongo.asynchronous.pool:_async_cond_wait",
    "pymongo.asynchronous.topology:_async_cond_wait",
    "pymongo.errors:_OperationCancelled",
    "pymongo.helpers_shared:_check_command_response",
    "_pytest.outcomes:OutcomeException",
)


_OF_EACH_CLASS = {"_abc_impl", "_is_protocol"}
"""Names that `abc` and `typing` give each class of theirs."""


def names_of(kind: type) -> set[str]:
    """Return the names of a class: what it and its bases define, and what they assign to `self`."""
    found = set(dir(kind))
    for base in kind.__mro__[:-1]:
        found |= set(getattr(base, "__annotations__", ()))
        found |= set(assigned(base))
    return found


def assigned(kind: type) -> set[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # written in C
        return set()
    return {name for name, store in own(tree) if store}


def own(tree: ast.AST) -> set[tuple[str, bool]]:
    """Return the attributes of `self` and of `super()`, and whether they are assigned."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "super()"}:
            found.add((node.attr, isinstance(node.ctx, ast.Store)))
    return found


def used(ours: tuple[type, ...], theirs: type) -> set[str]:
    """Return what our classes use of the one that they extend, and what they override of it."""
    names, defined = set(), set()
    for kind in ours:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        names |= {name for name, _ in own(tree)} | set(vars(kind))
        defined |= {name for name, store in own(tree) if store} | set(vars(kind))
    from_them = (names & names_of(theirs)) | (names - defined)
    return {name for name in from_them - _OF_EACH_CLASS if not name.startswith("__")}


def release_of(kind: type) -> str:
    library = kind.__module__.partition(".")[0]
    return f"{library} {version(library)}" if library in packages_distributions() else library


@pytest.mark.parametrize(("theirs", "names"), [*PARTS.items(), *((theirs, names) for theirs, _, names in EXTENDED)])
def test_each_part_is_there(theirs: type, names: str) -> None:
    gone = set(names.split()) - names_of(theirs)
    assert not gone, f"{release_of(theirs)}: {theirs.__qualname__} has no {', '.join(sorted(gone))} any more"


@pytest.mark.parametrize("path", NAMES)
def test_each_name_is_there(path: str) -> None:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module} has no {name} any more"
        found = getattr(found, part)


@pytest.mark.parametrize(("theirs", "ours", "names"), EXTENDED)
def test_the_used_parts_of_an_extended_class_are_found(theirs: type, ours: tuple[type, ...], names: str) -> None:
    assert used(ours, theirs) == set(names.split())


@pytest.mark.parametrize("library", CAPPED)
def test_a_library_whose_private_parts_are_used_has_an_upper_bound(library: str) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = [Requirement(line) for line in tomllib.load(file)["project"]["dependencies"]]
    (found,) = [one for one in wanted if one.name == library]
    assert any(bound.operator == "<" for bound in found.specifier)
    assert found.specifier.contains(version(library)), f"{library} {version(library)} was not looked at"


def test_a_part_that_is_gone_is_named() -> None:
    class Shrunk:
        def __init__(self) -> None:
            self.scope = {}  # type: ignore[var-annotated]

    with pytest.raises(AssertionError, match="Shrunk has no message_event any more"):
        test_each_part_is_there(Shrunk, "scope message_event")
