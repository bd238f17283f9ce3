"""The supervisor of `eventsync dev`: starts mongod, worker and server, restarts them, and ends them at a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from eventsync.dev import demo_data, greeting, mongod, mongod_log
from eventsync.dev.data_dir import DataDir, OwnKey
from eventsync.dev.server_client import ServerClient
from eventsync.dev.terminal import Terminal
from eventsync.errors import EventsyncError, Unavailable
from eventsync.rules.follower import RulesFollower
from eventsync.server.supervision.child import Child, ChildSpec, first
from eventsync.settings import PREFIX, Settings
from eventsync.stores.log.logs import LogStore
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL: Final = 0.05
_NOT_READY_INTERVAL: Final = 15.0
"""Seconds between two messages that the server is not ready yet."""

_GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL that a child gets beyond the time that its own settings allow."""


class Supervisor:
    """One run of `eventsync dev`. `binary` is the mongod to run, or None if `settings` name a MongoDB."""

    def __init__(
        self, settings: Settings, directory: DataDir, terminal: Terminal, *, binary: Path | None, demo: bool
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._terminal = terminal
        self._binary = binary
        self._demo = demo
        self._client = ServerClient(settings.host, settings.port)
        self._key = OwnKey(directory.key)
        self._children: list[Child] = []
        self._stop = asyncio.Event()
        self._force = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP. Raises the failure of a child that ends the run earlier."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        failure: EventsyncError | None = None
        try:
            async with AsyncExitStack() as children:
                await self._start(children, began)
                await self._stop.wait()
        except Unavailable as error:
            failure = error
        self._terminal.say(f"everything has ended; the data stays in {self._directory.path}")
        # A child's own failure explains more than ours, which is that the child was missing.
        if failure := next((child.failure for child in self._children if child.failure), failure):
            raise failure

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            self._terminal.say("killing all processes")
            self._force.set()
            return
        self._terminal.say(f"{number.name}: ending server, worker and mongod; repeat it to kill them")
        self._stop.set()

    async def _start(self, children: AsyncExitStack, began: float) -> None:
        """Start the children one after another, each once it can work. Return early when stopped."""
        uri = self._settings.mongodb_uri
        if self._binary is not None:
            port = self._directory.mongod_port()
            uri = mongod.uri(port)
            await children.enter_async_context(self._running(self._mongod_spec(self._binary, port)))
            await asyncio.to_thread(mongod.initiate, port, given_up=self._stop.is_set)
            await self._unless_stopped(self._reset_copy(uri))
        self._directory.write_config(self._shared_settings(uri))
        await self._unless_stopped(self._continue_rules(uri))
        await children.enter_async_context(self._following_rules(uri))
        for spec in (self._worker_spec(uri), self._server_spec(uri)):
            await children.enter_async_context(self._running(spec))
        await self._unless_stopped(self._welcome(began))

    async def _continue_rules(self, uri: str | None) -> None:
        """Sign in if rules are in force from an earlier run, or were applied by a command."""
        settings = self._settings.model_copy(update={"mongodb_uri": uri})
        async with connected(settings, "dev") as client:
            stores = Stores.of(client, settings)
            if (await stores.definitions.read()).rules is not None:
                await self._sign_in(stores)

    async def _reset_copy(self, uri: str) -> None:
        """Request a new log if the data is a copy, which may be older than what clients have."""
        if self._directory.is_copy():
            settings = self._settings.model_copy(update={"mongodb_uri": uri})
            async with connected(settings, "dev") as client:
                ended = await LogStore(client[settings.log_db]).request_reset("the data directory is a copy")
            if ended is not None:
                self._terminal.say(f"{self._directory.path} is a copy: a new log follows {ended.id}", "yellow")
        self._directory.settle()

    @asynccontextmanager
    async def _following_rules(self, uri: str | None) -> AsyncIterator[None]:
        settings = self._settings.model_copy(update={"mongodb_uri": uri, "collections": self._collections})
        follower = RulesFollower(settings, self._terminal.say, self._sign_in)
        task = asyncio.create_task(follower.run(), name="follow the rules file")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _sign_in(self, stores: Stores) -> None:
        """Make a key for whoever runs this, and say how it is used."""
        key = await self._key.ensure(stores.credentials)
        if key != self._client.credential:
            self._client.credential = key
            for line in self._key.hints(self._client.url, next(iter(self._collections), None)):
                self._terminal.say(line)

    @asynccontextmanager
    async def _running(self, spec: ChildSpec) -> AsyncIterator[None]:
        child = Child(spec, self._terminal, self._stop.set, self._force)
        self._children.append(child)
        async with child.running():
            yield

    async def _unless_stopped(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing, name="welcome")
        await first(self._stop, task)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        return None

    # --- the processes --------------------------------------------------------------------------------------------

    def _mongod_spec(self, binary: Path, port: int) -> ChildSpec:
        log = self._directory.mongod_log
        return ChildSpec(
            name="mongod",
            command=tuple(mongod.command(binary, self._directory.mongodb, port)),
            stop_timeout=2 * _GRACE,
            log=log,
            explain=lambda: mongod_log.last_error(log),
        )

    def _server_spec(self, uri: str | None) -> ChildSpec:
        address = ("--host", self._settings.host, "--port", str(self._settings.port))
        return self._process("server", ("serve", *address), uri, self._settings.drain_timeout + _GRACE)

    def _worker_spec(self, uri: str | None) -> ChildSpec:
        return self._process("worker", ("worker",), uri, self._settings.mongodb_timeout + _GRACE)

    def _process(self, name: str, words: tuple[str, ...], uri: str | None, stop_timeout: float) -> ChildSpec:
        # -P: a package `app` in the current directory is the user's, not ours.
        command = (sys.executable, "-P", "-m", "eventsync", *words)
        # Both can be killed at any time. While mongod ends too, they could only wait for it.
        return ChildSpec(name, command, stop_timeout, self._environment(uri), orphaned=signal.SIGKILL)

    def _environment(self, uri: str | None) -> dict[str, str]:
        """Return the environment with a child's settings. In a command line a password would be visible to all."""
        given = {name: getattr(self._settings, name) for name in self._settings.model_fields_set}
        # A short lease, so that a worker that replaces a killed one need not wait long.
        ours = {"lease_period": 2.0, "archive_url": str(self._directory.archive)}
        values = ours | given | {"mongodb_uri": uri, "collections": self._collections}
        texts = {f"{PREFIX}{name.upper()}": _text(value) for name, value in values.items()}
        return os.environ | texts | {"PYTHONUNBUFFERED": "1"}

    @property
    def _collections(self) -> tuple[str, ...]:
        demo = (demo_data.COLLECTION,) if self._demo else ()
        return tuple(dict.fromkeys((*demo, *self._settings.collections)))

    def _shared_settings(self, uri: str | None) -> dict[str, str]:
        archive = self._settings.archive_url or str(self._directory.archive)
        shared = {"mongodb_uri": uri, "database": self._settings.database, "log_database": self._settings.log_database}
        shared["archive_url"] = archive
        return {name: value for name, value in shared.items() if value}

    # --- readiness ------------------------------------------------------------------------------------------------

    async def _welcome(self, began: float) -> None:
        await self._ready()
        if self._demo:
            await self._load_demo()
        for line in greeting.lines(self._client.url, self._collections, self._directory.path, demo=self._demo):
            self._terminal.say(line)
        self._terminal.say(f"ready after {time.monotonic() - began:.1f} s: {self._client.url}", "bold green")

    async def _load_demo(self) -> None:
        try:
            await demo_data.load(self._client, self._directory.demo, self._terminal.say)
        except Unavailable as error:
            self._terminal.say(f"{error.diagnosis}; continuing without it", "yellow")

    async def _ready(self) -> None:
        reported = time.monotonic()
        while True:
            try:
                answer = await self._client.get("/readyz")
                # The demo's writes also need a worker.
                # Under rules that were applied in the meantime the details are for operators: a key comes soon.
                if answer.status == 200 and answer.body.get("sequencer_live"):
                    return
                reason = answer.detail
            except Unavailable as error:
                reason = error.diagnosis
            if time.monotonic() - reported > _NOT_READY_INTERVAL:
                reported = time.monotonic()
                self._terminal.say(f"not ready yet: {reason}", "yellow")
            await asyncio.sleep(_POLL)


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
