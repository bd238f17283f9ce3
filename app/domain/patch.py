"""JSON Patch over documents of BSON values.

A BSON value that JSON has no word for (an ObjectId, a date) is one value: a pointer does not reach inside it. The
operations themselves are python-json-patch's; what is here is what it leaves open between JSON and BSON, and the
bounds that input from the network needs.

Sources: https://www.rfc-editor.org/rfc/rfc6902 , https://www.rfc-editor.org/rfc/rfc6901
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import bson
import jsonpatch
from bson.int64 import Int64
from jsonpointer import JsonPointer, JsonPointerException

from app.domain.json_document import ABSENT, converted
from app.domain.stamp import FIELD
from app.domain.values import CODEC, MAX_DEPTH, Document, check_depth, from_tree, same
from app.errors import Malformed, PatchFailed, TooLarge

Apply = Callable[[Document], Document]
"""A checked patch: takes a document, leaves it as it is, and returns the patched one."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)

_OPERATIONS: Final = {
    "add": jsonpatch.AddOperation,
    "remove": jsonpatch.RemoveOperation,
    "replace": jsonpatch.ReplaceOperation,
    "move": jsonpatch.MoveOperation,
    "copy": jsonpatch.CopyOperation,
}


@dataclass(frozen=True, slots=True)
class JsonPatch:
    """A JSON Patch as a client sent it: `operations` is the parsed JSON."""

    operations: Any

    def prepared(self, *, operations: int, document_bytes: int) -> Apply:
        """Check everything that does not depend on the document.

        Raises `Malformed`, and `TooLarge` over `operations` operations. What it returns raises `PatchFailed` where the
        patch does not apply, and `TooLarge` where `copy` operations copy more than `document_bytes` in all.
        """
        if not isinstance(self.operations, list):
            raise Malformed("a JSON Patch is an array of operations")
        if len(self.operations) > operations:
            raise TooLarge(f"a patch may have {operations} operations, not {len(self.operations)}")
        steps = [_Step.of(index, tree) for index, tree in enumerate(self.operations)]
        return lambda document: _apply(steps, document, document_bytes)


def equal(left: Any, right: Any) -> bool:
    """Whether two values are equal as RFC 6902's `test` has it: numbers by value, all other BSON types exactly."""
    if _is_number(left) and _is_number(right):
        return bool(left == right) or same(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(equal(value, right[name]) for name, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return same(left, right)


def _is_number(value: Any) -> bool:
    return type(value) in {int, float, Int64}


class _Pointer(JsonPointer):
    """A JSON Pointer that steps into objects and arrays and nothing else.

    The library's own also steps into whatever Python can index: bytes, for one.
    """

    def to_last(self, doc: Any) -> tuple[Any, Any]:
        """The container that the last token is looked up in, and the token as its key; None for the root."""
        if not self.parts:
            return doc, None
        for part in self.parts[:-1]:
            doc = self.walk(doc, part)
        return doc, _key(doc, self.parts[-1])

    def walk(self, doc: Any, part: str | int) -> Any:
        """One step. Raises `JsonPointerException` where there is nothing."""
        try:
            return doc[_key(doc, part)]
        except (KeyError, IndexError, TypeError) as error:
            raise JsonPointerException(f"there is nothing at {part!r}") from error


def _key(container: Any, part: str | int) -> str | int:
    if isinstance(container, dict) or (isinstance(container, list) and part == "-"):
        return part
    if not isinstance(container, list):
        raise JsonPointerException(f"{part!r} leads into a value that is no object and no array")
    if not _INDEX.fullmatch(str(part)):
        raise JsonPointerException(f"{part!r} is no array index")
    return int(part)


@dataclass(frozen=True, slots=True)
class _Step:
    """One checked operation; `value` (from the JSON `tree`) and `source` are None where it has none."""

    index: int
    op: str
    path: _Pointer
    source: _Pointer | None
    value: Any
    tree: Any

    @classmethod
    def of(cls, index: int, tree: Any) -> _Step:
        """Check one operation. Raises `Malformed`."""
        if not isinstance(tree, dict):
            raise Malformed(f"operation {index}: an operation is an object")
        op = tree.get("op")
        if not isinstance(op, str) or (op not in _OPERATIONS and op != "test"):
            raise Malformed(f"operation {index}: {op!r} is no operation of RFC 6902")
        try:
            source = _pointer(tree, "from") if op in {"move", "copy"} else None
            step = cls(index, op, _pointer(tree, "path"), source, _operand(tree, op), tree.get("value"))
            step._check()
        except Malformed as error:
            raise Malformed(f"operation {index} ({op}): {error.message}") from error
        return step

    def _check(self) -> None:
        _reserved(self.path, written=self.op != "test")
        if self.source is not None:
            _reserved(self.source, written=self.op == "move")
        if self.op in {"add", "replace", "move", "copy"} and (self.path.parts[-1][:1] == "$" or "\0" in self.path.path):
            raise Malformed("a field name must not start with '$' or contain a null character")
        check_depth(self.value, MAX_DEPTH - len(self.path.parts))

    def spelled(self, value: Any) -> dict[str, Any]:
        """The operation as the library takes it, with `value` for its value."""
        tree = {"op": self.op, "path": self.path.path, "value": value}
        return tree if self.source is None else tree | {"from": self.source.path}


def _pointer(tree: dict[str, Any], member: str) -> _Pointer:
    text = tree.get(member)
    if not isinstance(text, str):
        raise Malformed(f"`{member}` must be a JSON Pointer")
    try:
        return _Pointer(text)
    except JsonPointerException as error:
        raise Malformed(f"{text[:100]!r} is no JSON Pointer: {error}") from error


def _operand(tree: dict[str, Any], op: str) -> Any:
    if op not in {"add", "replace", "test"}:
        return None
    if "value" not in tree:
        raise Malformed("`value` is missing")
    return from_tree(tree["value"])


def _reserved(pointer: _Pointer, *, written: bool) -> None:
    if not pointer.parts:
        if written:
            raise Malformed("the document as a whole can't be changed by a patch; replace it")
    elif pointer.parts[0] == FIELD or (written and pointer.parts[0] == "_id"):
        raise Malformed(f"{pointer.parts[0]} can't be patched")


def _apply(steps: list[_Step], document: Document, budget: int) -> Document:
    patched: Any = _clone(document)
    for step in steps:
        try:
            patched, copied = _apply_step(step, patched)
        except (jsonpatch.JsonPatchException, JsonPointerException) as error:
            raise PatchFailed(f"operation {step.index} ({step.op} {step.path.path[:200]}): {error}") from error
        if (budget := budget - copied) < 0:
            raise TooLarge(f"operation {step.index}: the patch copies more than a document may hold")
    return patched  # type: ignore[no-any-return] # no step can replace the root


def _apply_step(step: _Step, document: Any) -> tuple[Any, int]:
    """Apply one operation in place; also how many bytes of the document it doubled."""
    if step.op == "test":
        if not equal(step.path.resolve(document), step.value):
            raise jsonpatch.JsonPatchTestFailed("the value is another one")
        return document, 0
    value, copied = step.value, 0
    if step.source is not None:
        moved = step.source.resolve(document)
        # Without this, a few operations that copy a value into itself outgrow every recursion limit.
        check_depth(moved, MAX_DEPTH - len(step.path.parts))
        copied = len(bson.encode({"": moved}, codec_options=CODEC)) if step.op == "copy" else 0
    elif step.op in {"add", "replace"}:
        # Later operations may change the value where it then is, and the patch may have to be applied again.
        value = _clone(converted(_replaced(step, document), step.tree, value))
    return _OPERATIONS[step.op](step.spelled(value), pointer_cls=_Pointer).apply(document), copied


def _replaced(step: _Step, document: Any) -> Any:
    """The value that an `add` or `replace` takes the place of; `ABSENT` where it takes none's."""
    container, key = step.path.to_last(document)
    if isinstance(container, dict):
        return container.get(key, ABSENT)
    # In an array `add` inserts.
    return container[key] if step.op == "replace" and isinstance(key, int) and key < len(container) else ABSENT


def _clone(value: Any) -> Any:
    """A copy of the containers; leaves are immutable."""
    if isinstance(value, dict):
        return {name: _clone(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_clone(item) for item in value]
    return value
