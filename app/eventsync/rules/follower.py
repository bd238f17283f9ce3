"""Following the rules file, for `eventsync dev`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from eventsync.errors import EventsyncError, Unavailable
from eventsync.rules.file import RulesFile, applied_text, path_of, read_file, require_auth
from eventsync.settings import Settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

_POLL: Final = 0.3
"""Seconds between two looks at the file."""

Say = Callable[[str, str], None]
"""Prints a line in a style."""

OnAuth = Callable[[Stores], Awaitable[None]]
"""Called after rules with `[auth]` were applied."""

_Version = tuple[int, int, int]
"""The version of a file: its number, its time and its size."""


class RulesFollower:
    """Applies the rules file at once and after each change, for `eventsync dev`. `settings` name a MongoDB.

    The shapes stay declared if the file is removed, and the rules in force if it loses its `[auth]`.
    """

    def __init__(self, settings: Settings, say: Say, on_auth: OnAuth | None = None) -> None:
        self._settings = settings
        self._say = say
        self._on_auth = on_auth
        self._path = path_of(settings)
        self._is_expected = settings.rules_file is not None
        self._seen: _Version | None = None

    async def run(self) -> None:
        """Apply the file, again after each change, until cancelled."""
        if self._is_expected and _version(self._path) is None:
            self._say(f"there is no rules file {self._path} yet", "yellow")
        version = _version(self._path)
        while True:
            if version != self._seen and await self._changed(version):
                self._seen = version
            version = await self._settled()

    async def _settled(self) -> _Version | None:
        """Return the version of the file once two looks in a row have found it.

        Many editors truncate a file before they write it. An empty file declares nothing, and would end every shape.
        """
        version = _version(self._path)
        while True:
            await asyncio.sleep(_POLL)
            before, version = version, _version(self._path)
            if version == before:
                return version

    async def _changed(self, version: _Version | None) -> bool:
        """Apply a version of the file. Return True unless it is to be tried again."""
        if version is None:
            self._say(f"{self._path} is gone; its shapes stay declared", "yellow")
            return True
        try:
            rules = read_file(self._path)
            if _version(self._path) != version:
                return False
            await self._apply(rules)
        except Unavailable as error:
            self._say(f"{error.diagnosis}; the rules are applied later", "yellow")
            return False
        except EventsyncError as error:
            self._say(error.diagnosis, "red")
        return True

    async def _apply(self, rules: RulesFile) -> None:
        for problem in rules.problems:
            self._say(f"{self._path}: {problem.message}", "red")
        if rules.problems:
            return
        async with connected(self._settings, "dev") as client:
            stores = Stores.of(client, self._settings)
            require_auth(rules, (await stores.definitions.read()).rules)
            applied = await stores.definitions.apply(rules.declarations, rules.spec)
            # The worker tracks the collections of the settings when it starts.
            asked = {*self._settings.collections, *(item.name for item in await stores.tracking.read())}
            if rules.access is not None and self._on_auth is not None:
                await self._on_auth(stores)
        self._say(f"{self._path}: {applied_text(applied)}", "")
        shaped = {item.collection for item in rules.definitions.values()}
        for collection in sorted((shaped | rules.ruled) - asked):
            has = "shapes" if collection in shaped else "rules"
            self._say(f"{collection} has {has} and is not tracked: `eventsync track {collection}`", "yellow")


def _version(path: Path) -> _Version | None:
    """Return the version of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
