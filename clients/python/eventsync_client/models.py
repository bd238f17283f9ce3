"""Documents of a shape as models of pydantic, validated when they are looked at. One that fails says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Generic, Self, TypeVar

from eventsync_client.errors import InvalidDocument
from eventsync_client.followed import AnyChange, Change, Shape
from eventsync_client.replica import Row
from eventsync_client.values import Codec

M = TypeVar("M")


class Validator(Generic[M]):
    """Makes models of the documents of one shape. A document that has not changed keeps its model."""

    def __init__(self, model: type[M], shape: str, codec: Codec) -> None:
        """`model`: a `BaseModel`, or another type that pydantic validates. Raises `ImportError` without pydantic."""
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - an optional package

        self._adapter = TypeAdapter(model)
        self._refusal = ValidationError
        self._shape = shape
        self._codec = codec
        self._known: dict[str, tuple[Row, M]] = {}

    def model(self, key: str, row: Row) -> M:
        """Return the model of a document that is held. Raises `InvalidDocument`."""
        known = self._known.get(key)
        if known is None or known[0] is not row:
            known = self._known[key] = row, self.validated(key, row)
        return known[1]

    def validated(self, key: str, row: Row) -> M:
        """Return a model that is made now. Raises `InvalidDocument`."""
        document = self._codec.decode(row.doc)
        try:
            return self._adapter.validate_python(document)
        except self._refusal as error:
            raise InvalidDocument(self._shape, key, row.version, document, str(error)) from error

    def keep_only(self, rows: Mapping[str, Row]) -> None:
        """Forget the models of documents that are gone, once they are many."""
        if len(self._known) > 2 * len(rows) + 100:
            self._known = {key: known for key, known in self._known.items() if key in rows}


class ModelDocuments(Mapping[str, M]):
    """The documents of a shape: id → model. To look at one that its model refuses raises `InvalidDocument`."""

    def __init__(self, rows: Callable[[], Mapping[str, Row]], validator: Validator[M]) -> None:
        self._rows = rows
        self._validator = validator

    def __getitem__(self, key: str) -> M:
        rows = self._rows()
        self._validator.keep_only(rows)
        return self._validator.model(key, rows[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __contains__(self, key: object) -> bool:
        return key in self._rows()

    def invalid(self) -> dict[str, InvalidDocument]:
        """Validate all documents, and return the errors of those that their model refuses, by id."""
        found: dict[str, InvalidDocument] = {}
        for key in self:
            try:
                self[key]
            except InvalidDocument as error:
                found[key] = error
        return found


class ModelledChange(AnyChange, Generic[M]):
    """The models of a change, for either kind of client."""

    validator: Validator[M]

    @property
    def before(self) -> M | None:
        """The document before; None if the client held none. Raises `InvalidDocument`."""
        return self._model(self._raw.before)

    @property
    def after(self) -> M | None:
        """The document after; None if the client holds none. Raises `InvalidDocument`."""
        return self._model(self._raw.after)

    @property
    def invalid(self) -> InvalidDocument | None:
        """The error of the document after the change, which has the document itself; None if its model takes it."""
        try:
            self._model(self._raw.after)
        except InvalidDocument as error:
            return error
        return None

    def _model(self, row: Row | None) -> M | None:
        return None if row is None else self.validator.validated(self.id, row)


class ModelChange(ModelledChange[M], Change):
    """A change of one document. `before` and `after` are models; None where there was or is no document."""

    @classmethod
    def of(cls, change: Change, validator: Validator[M]) -> ModelChange[M]:
        """Return the same change with models."""
        made = cls(change._shape, change._pending)
        made.validator = validator
        return made


class ModelShape(Generic[M]):
    """A shape that is followed, with models in place of documents."""

    def __init__(self, shape: Shape, model: type[M]) -> None:
        self.shape = shape
        """The same shape, with documents as they are."""
        self._validator = Validator(model, shape.text, shape.codec)

    def __repr__(self) -> str:
        return repr(self.shape)

    @property
    def text(self) -> str:
        return self.shape.text

    @property
    def documents(self) -> ModelDocuments[M]:
        """The documents now: id → model."""
        return ModelDocuments(lambda: self.shape.rows, self._validator)

    def version(self, id: str) -> int:
        """Return the version of a document, as `if_match` takes it. Raises `KeyError`."""
        return self.shape.version(id)

    @property
    def position(self) -> str | None:
        """The position at which the documents are so; None before the first snapshot."""
        return self.shape.position

    @property
    def is_live(self) -> bool:
        """True if the shape has caught up on the present connection."""
        return self.shape.is_live

    async def live(self) -> Self:
        """Wait until the shape has caught up. Raises `ShapeRefused` and `SyncFailed`."""
        await self.shape.live()
        return self

    async def reached(self, position: str) -> None:
        """Wait until the shape is at a position, or beyond it."""
        await self.shape.reached(position)

    async def changes(self) -> AsyncGenerator[ModelChange[M]]:
        """Yield each change, as `Shape.changes` does, valid or not."""
        async with aclosing(self.shape.changes()) as changes:
            async for change in changes:
                yield ModelChange.of(change, self._validator)

    async def close(self) -> None:
        """Follow the shape no more. What the store has of it stays."""
        await self.shape.close()
