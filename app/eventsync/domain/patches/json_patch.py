"""JSON Patch over documents of BSON values.

A BSON value that JSON has no word for (an ObjectId, a date) is one value: a pointer does not reach inside it. The
operations themselves are those of python-json-patch. This module adds the BSON semantics, and limits for untrusted
input.

Sources: https://www.rfc-editor.org/rfc/rfc6902 , https://www.rfc-editor.org/rfc/rfc6901
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonpatch
from bson.int64 import Int64
from jsonpointer import JsonPointer, JsonPointerException

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.patches.json_pointer import unescape
from eventsync.domain.stamp import FIELD
from eventsync.domain.values.extended_json import (
    MAX_DEPTH,
    Document,
    JsonText,
    copied,
    double_of,
    from_tree,
    level_below,
    parse_json,
    same,
)
from eventsync.domain.values.json_document import ABSENT, converted
from eventsync.errors import Malformed, PatchFailed, TooComplex, TooLarge

Apply = Callable[[Document], Document]
"""A validated patch: returns the patched copy of a document."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)

_OPERATIONS: Final = {
    "add": jsonpatch.AddOperation,
    "remove": jsonpatch.RemoveOperation,
    "replace": jsonpatch.ReplaceOperation,
    "move": jsonpatch.MoveOperation,
    # The library's own copies values with `copy.deepcopy`, ten times as slowly as `copied`.
    "copy": jsonpatch.AddOperation,
}

_WRITTEN: Final = dict.fromkeys(_OPERATIONS, ("path",)) | {"move": ("path", "from")}
"""The pointers to what an operation changes. None of them is to the document as a whole."""

_COPIED_PER_STEP: Final = 2
"""Bytes of BSON that a `copy` duplicates in one step; they are encoded, decoded and compared afterwards."""

_SHIFTED_PER_STEP: Final = 64
"""Array items that one step moves: inserting and removing shift all later items."""


@dataclass(frozen=True, slots=True)
class JsonPatch:
    """A JSON Patch as a client sent it: `operations` is the parsed JSON, or a `JsonText`."""

    operations: Any

    def parsed(self) -> JsonPatch:
        """Return the patch with its JSON parsed. Raises `Malformed`."""
        return JsonPatch(parse_json(self.operations.text)) if isinstance(self.operations, JsonText) else self

    def prepared(self, *, operations: int, document_bytes: int, steps: int) -> Apply:
        """Check everything that does not depend on the document.

        Raises `Malformed`, and `TooLarge` over `operations` operations. What it returns raises `PatchFailed` where the
        patch does not apply, `TooLarge` where `copy` operations copy more than `document_bytes` in all, and
        `TooComplex` where the operations take more than `steps` (see `_Budget`).
        """
        if not isinstance(self.operations, list):
            raise Malformed("a JSON Patch is an array of operations")
        if len(self.operations) > operations:
            raise TooLarge(f"a patch may have {operations} operations, not {len(self.operations)}")
        listed = [_Step.of(index, tree) for index, tree in enumerate(self.operations)]
        return lambda document: _PatchRun(listed, document, document_bytes, _Budget(steps)).result()

    def touched(self) -> Container[str]:
        """Return the fields of a document that the checked patch may change."""
        pointers = [tree[name] for tree in self.operations for name in _WRITTEN.get(tree["op"], ())]
        return {unescape(pointer.split("/", 2)[1]) for pointer in pointers}


def equal(left: Any, right: Any) -> bool:
    """Return True if two values are equal for RFC 6902's `test`: numbers by value, other BSON types exactly."""
    if _is_number(left) and _is_number(right):
        return bool(left == right) or same(left, right) or _is_spelled(left, right) or _is_spelled(right, left)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(equal(value, right[name]) for name, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return same(left, right)


def _is_number(value: Any) -> bool:
    return type(value) in {int, float, Int64}


def _is_spelled(double: float, digits: float) -> bool:
    """Return True if JSON writes `double` as the integer `digits`."""
    return type(double) is float and isinstance(digits, int) and double_of(digits) == double


class _Pointer(JsonPointer):
    """A JSON Pointer that steps into objects and arrays and nothing else.

    The library's own also steps into whatever Python can index: bytes, for one.
    """

    def to_last(self, doc: Any) -> tuple[Any, Any]:
        """Return the container of the last token, and the token as its key, which is None for the root."""
        if not self.parts:
            return doc, None
        for part in self.parts[:-1]:
            doc = self.walk(doc, part)
        return doc, _key(doc, self.parts[-1])

    def walk(self, doc: Any, part: str | int) -> Any:
        """Take one step. Raises `JsonPointerException` if there is no such member."""
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
    """One checked operation; `value` (from the JSON `tree`) and `source` are None where it has none.

    `depth` is how many levels `value` has.
    """

    index: int
    op: str
    path: _Pointer
    source: _Pointer | None
    value: Any
    tree: Any
    depth: int

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
            value = _operand(tree, op)
            depth = _depth_of(value, _Budget(sys.maxsize))
            step = cls(index, op, _pointer(tree, "path"), source, value, tree.get("value"), depth)
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
        _check_levels(len(self.path.parts) + self.depth)

    def spelled(self, value: Any) -> dict[str, Any]:
        """Return the operation in the form of the library, with the given `value`."""
        tree = {"op": self.op, "path": self.path.path, "value": value}
        return tree | {"from": self.source.path} if self.op == "move" and self.source is not None else tree


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


def _check_levels(levels: int) -> None:
    if levels > MAX_DEPTH:
        raise Malformed(f"the value nests deeper than {MAX_DEPTH} levels")


class _Budget:
    """A limit on the work of one request, in steps instead of time. A step is a visit to a value, about 0.1 µs."""

    __slots__ = ("_steps", "left")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take `steps`. Raises `TooComplex` if fewer are left."""
        self.left -= steps
        if self.left < 0:
            raise TooComplex(f"the request takes more than {self._steps} steps of work; split it up")


def _depth_of(value: Any, budget: _Budget) -> int:
    """Count the levels below `value`: 0 for a leaf, `MAX_DEPTH + 1` where there are more than `MAX_DEPTH`.

    Spends a step for each value in it.
    """
    level, depth = [value], 0
    while True:
        budget.spend(len(level))
        level = level_below(level)
        if not level or depth > MAX_DEPTH:
            return depth
        depth += 1


class _PatchRun:
    """Applies a patch to a copy of one document, within bounds of bytes and of steps."""

    def __init__(self, steps: list[_Step], document: Document, max_copied: int, budget: _Budget) -> None:
        """`max_copied` is the most bytes that `copy` operations copy in all."""
        self._steps = steps
        # The original is still needed: it is compared with the result.
        self._document: Any = copied(document)
        self._left_to_copy = max_copied
        self._budget = budget
        self._depth: int | None = None
        """An upper bound of the document's depth; None until it is counted."""

    def result(self) -> Document:
        for step in self._steps:
            try:
                self._apply(step)
            except (jsonpatch.JsonPatchException, JsonPointerException) as error:
                raise PatchFailed(f"operation {step.index} ({step.op} {step.path.path[:200]}): {error}") from error
        return self._document  # type: ignore[no-any-return] # no step can replace the root

    def _apply(self, step: _Step) -> None:
        """Apply one operation in place."""
        self._budget.spend(1 + len(step.path.parts))
        if step.op == "test":
            if not equal(step.path.resolve(self._document), step.value):
                raise jsonpatch.JsonPatchTestFailed("the value is another one")
            return
        value = step.value
        if step.source is not None:
            moved = step.source.resolve(self._document)
            self._deepen(step, step.source, moved)
            value = self._copy(step, moved) if step.op == "copy" else None
            self._shift(step.source)
        elif step.op in {"add", "replace"}:
            # Later operations may change the value where it then is, and the patch may have to be applied again.
            value = copied(converted(_replaced(step, self._document), step.tree, value))
            self._depth = None if self._depth is None else max(self._depth, len(step.path.parts) + step.depth)
        self._shift(step.path)
        operation = _OPERATIONS[step.op](step.spelled(value), pointer_cls=_Pointer)
        self._document = operation.apply(self._document)

    def _deepen(self, step: _Step, source: _Pointer, moved: Any) -> None:
        """Refuse a value that would nest too deeply, before it exceeds a recursion limit.

        The levels are estimated from above, and counted only if the estimate is too high: a patch of a thousand
        operations must not walk through the document a thousand times.
        """
        target, further = len(step.path.parts), len(step.path.parts) - len(source.parts)
        if further <= 0:
            return
        if self._depth is None:
            self._depth = _depth_of(self._document, self._budget)
        if not isinstance(moved, dict | list):
            self._depth = max(self._depth, target)
        elif self._depth + further > MAX_DEPTH:
            levels = target + _depth_of(moved, self._budget)
            _check_levels(levels)
            self._depth = max(levels, _depth_of(self._document, self._budget))
        else:
            self._depth += further

    def _copy(self, step: _Step, value: Any) -> Any:
        size = len(encode({"": value}))
        self._left_to_copy -= size
        if self._left_to_copy < 0:
            raise TooLarge(f"operation {step.index}: the patch copies more than a document may hold")
        self._budget.spend(size // _COPIED_PER_STEP)
        return copied(value)

    def _shift(self, pointer: _Pointer) -> None:
        """Spend the cost of inserting into an array or removing from it."""
        container, _ = pointer.to_last(self._document)
        if isinstance(container, list):
            self._budget.spend(len(container) // _SHIFTED_PER_STEP)


def _replaced(step: _Step, document: Any) -> Any:
    """Return the value that an `add` or `replace` replaces, or `ABSENT`."""
    container, key = step.path.to_last(document)
    if isinstance(container, dict):
        return container.get(key, ABSENT)
    # In an array `add` inserts.
    return container[key] if step.op == "replace" and isinstance(key, int) and key < len(container) else ABSENT
