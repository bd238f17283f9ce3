"""Stores: what outlives a connection, or the process. Rows, their position and the changes made of them go together.

A store is used by one client at a time, and never by two threads at the same time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, cast

from eventsync_client.replica import RawChange, Row, Source, Update


class Pending(NamedTuple):
    """A change that the application has not done yet. `position` is set with the last one of its message."""

    number: int
    change: RawChange
    position: str | None


@dataclass(slots=True)
class Saved:
    """The stored part of a shape. `pending` is None if nobody takes its changes."""

    position: str | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    pending: list[Pending] | None = None


class Store(Protocol):
    """Each method that writes is one transaction."""

    def open(self) -> None:
        """Make ready for use."""

    def close(self) -> None:
        """End the use."""

    def load(self, shape: str) -> Saved:
        """Return what is kept of a shape."""

    def apply(self, update: Update) -> list[Pending]:
        """Keep the rows, the position, and, if somebody takes them, the changes. Returns these changes, numbered."""

    def take_changes(self, shape: str, rows: Mapping[str, Row]) -> list[Pending]:
        """Keep the shape's changes from now on, beginning with a `create` of each of these rows. Returns these."""

    def done(self, shape: str, number: int) -> None:
        """Forget a change: the application has done it."""

    def transaction(self, shape: str, number: int) -> AbstractContextManager[sqlite3.Connection]:
        """Begin a transaction in which a change is done; the block may add to it. Raises `TypeError` without any."""

    def forget(self, shape: str) -> None:
        """Remove all that is kept of a shape."""


def numbered(changes: Iterable[RawChange], numbers: Iterable[int], position: str | None) -> list[Pending]:
    """Return the changes of one message with their numbers; the last one has the position of the message."""
    made = [Pending(number, change, None) for number, change in zip(numbers, changes, strict=False)]
    if made:
        made[-1] = made[-1]._replace(position=position)
    return made


def _created(shape: str, rows: Mapping[str, Row]) -> list[RawChange]:
    return [RawChange(shape, key, "snapshot", None, row) for key, row in rows.items()]


class Memory:
    """Keeps nothing beyond the process. The client holds the rows, so this has to hold none."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._taken: set[str] = set()

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def load(self, shape: str) -> Saved:
        return Saved(pending=[] if shape in self._taken else None)

    def apply(self, update: Update) -> list[Pending]:
        return numbered(update.changes, self._numbers, update.position) if update.shape in self._taken else []

    def take_changes(self, shape: str, rows: Mapping[str, Row]) -> list[Pending]:
        self._taken.add(shape)
        return numbered(_created(shape, rows), self._numbers, None)

    def done(self, shape: str, number: int) -> None:
        pass

    def transaction(self, shape: str, number: int) -> AbstractContextManager[sqlite3.Connection]:
        del shape, number
        raise TypeError("change.transaction() needs a store that has transactions: store=Sqlite(path)")

    def forget(self, shape: str) -> None:
        self._taken.discard(shape)


_FORMAT: Final = 1

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS eventsync_format (format INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS eventsync_shapes (shape TEXT PRIMARY KEY, position TEXT, taken INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS eventsync_rows (
  shape TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (shape, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS eventsync_changes (
  number INTEGER PRIMARY KEY AUTOINCREMENT, shape TEXT NOT NULL, body TEXT NOT NULL, position TEXT
);
CREATE INDEX IF NOT EXISTS eventsync_changes_shape ON eventsync_changes (shape, number);
"""


class Sqlite:
    """Keeps rows, positions and changes in a file of SQLite, in tables that begin with `eventsync_`.

    The application may have tables of its own in the same file, and change them in `change.transaction()`.

    One client at a time uses a file. Another one would mix its rows and positions with those of this one, so the second
    that writes a shape fails, with a `RuntimeError`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._positions: dict[str, str | None] = {}
        """The position that this client has read or written last, by shape."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, in autocommit mode. Raises `RuntimeError` while the store is not open."""
        if self._connection is None:
            raise RuntimeError("the store is open while its client is: async with AsyncClient(…)")
        return self._connection

    def open(self) -> None:
        if self._connection is not None:
            raise RuntimeError(f"{self.path} is in use by another client")
        # The client never uses it from two threads at the same time.
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
        try:
            # A commit that is lost with the machine's power loses the application's rows with the position.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self.prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    @staticmethod
    def prepare(connection: sqlite3.Connection) -> None:
        """Make the tables. Raises `RuntimeError` for those of another format, and leaves these as they are."""
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'eventsync_format'").fetchone():
            _check_format(connection)
        connection.executescript(_TABLES)
        _check_format(connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._positions.clear()

    def load(self, shape: str) -> Saved:
        execute = self.connection.execute
        found = execute("SELECT position, taken FROM eventsync_shapes WHERE shape = ?", (shape,)).fetchone()
        self._positions[shape] = None if found is None else found[0]
        if found is None:
            return Saved()
        rows = execute("SELECT id, version, doc FROM eventsync_rows WHERE shape = ?", (shape,))
        documents = {key: Row(version, json.loads(doc)) for key, version, doc in rows}
        pending = None
        if found[1]:
            listed = execute(
                "SELECT number, body, position FROM eventsync_changes WHERE shape = ? ORDER BY number", (shape,)
            )
            pending = [Pending(number, _read(shape, body), position) for number, body, position in listed]
        return Saved(found[0], documents, pending)

    def apply(self, update: Update) -> list[Pending]:
        shape = update.shape
        with self._write() as connection:
            execute = connection.execute
            found = execute("SELECT position FROM eventsync_shapes WHERE shape = ?", (shape,)).fetchone()
            stored = None if found is None else found[0]
            if self._positions.get(shape, stored) != stored:
                raise RuntimeError(f"{self.path} is in use by another client, which has written {shape}")
            execute(
                "INSERT INTO eventsync_shapes (shape, position) VALUES (?, ?) "
                "ON CONFLICT (shape) DO UPDATE SET position = excluded.position",
                (shape, update.position),
            )
            if update.clear:
                execute("DELETE FROM eventsync_rows WHERE shape = ?", (shape,))
            if update.remove:
                removed = [(shape, key) for key in update.remove]
                connection.executemany("DELETE FROM eventsync_rows WHERE shape = ? AND id = ?", removed)
            if update.put:
                rows = [(shape, key, row.version, _text(row.doc)) for key, row in update.put.items()]
                connection.executemany("INSERT OR REPLACE INTO eventsync_rows VALUES (?, ?, ?, ?)", rows)
            kept = self._keep(connection, shape, update.changes, update.position) if update.changes else []
        self._positions[shape] = update.position
        return kept

    def _keep(
        self, connection: sqlite3.Connection, shape: str, changes: list[RawChange], position: str | None
    ) -> list[Pending]:
        (taken,) = connection.execute("SELECT taken FROM eventsync_shapes WHERE shape = ?", (shape,)).fetchone()
        if not taken:
            return []
        insert = "INSERT INTO eventsync_changes (shape, body, position) VALUES (?, ?, ?)"
        kept = []
        for at, change in enumerate(changes, 1):
            last = position if at == len(changes) else None
            cursor = connection.execute(insert, (shape, _written(change), last))
            kept.append(Pending(cast("int", cursor.lastrowid), change, last))
        return kept

    def take_changes(self, shape: str, rows: Mapping[str, Row]) -> list[Pending]:
        with self._write() as connection:
            connection.execute(
                "INSERT INTO eventsync_shapes (shape, taken) VALUES (?, 1) ON CONFLICT (shape) DO UPDATE SET taken = 1",
                (shape,),
            )
            return self._keep(connection, shape, _created(shape, rows), None)

    def done(self, shape: str, number: int) -> None:
        self.connection.execute("DELETE FROM eventsync_changes WHERE shape = ? AND number = ?", (shape, number))

    @contextmanager
    def transaction(self, shape: str, number: int) -> Iterator[sqlite3.Connection]:
        with self._write() as connection:
            # First, so that a block that commits by itself commits this, too.
            gone = connection.execute(
                "DELETE FROM eventsync_changes WHERE shape = ? AND number = ?", (shape, number)
            ).rowcount
            if gone != 1:
                raise RuntimeError("the change is done already")
            yield connection
            if not connection.in_transaction:
                raise RuntimeError("the block has ended the transaction itself")

    def forget(self, shape: str) -> None:
        with self._write() as connection:
            for table in ("shapes", "rows", "changes"):
                connection.execute(f"DELETE FROM eventsync_{table} WHERE shape = ?", (shape,))  # noqa: S608
        self._positions[shape] = None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; it is rolled back if the block fails."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if connection.in_transaction:
            connection.execute("COMMIT")


def _check_format(connection: sqlite3.Connection) -> None:
    found = connection.execute("SELECT format FROM eventsync_format").fetchone()
    if found is None:
        connection.execute("INSERT INTO eventsync_format VALUES (?)", (_FORMAT,))
    elif found[0] != _FORMAT:
        raise RuntimeError(f"the store has format {found[0]}, this client writes {_FORMAT}: use another file")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _written(change: RawChange) -> str:
    return _text([change.id, change.source, change.before, change.after, change.event])


def _read(shape: str, body: str) -> RawChange:
    key, source, before, after, event = json.loads(body)
    return RawChange(shape, key, cast("Source", source), before and Row(*before), after and Row(*after), event)
