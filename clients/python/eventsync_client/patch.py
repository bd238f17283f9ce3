"""RFC 6902 JSON Patch. Nothing is changed in place: the result shares untouched parts with the document before.

Source: https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_END: Final = frozenset({"-"})
"""The token of the place behind the last item of an array."""


class PatchError(Exception):
    """The patch does not apply."""


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """Return the document after the patch. Raises `PatchError`."""
    tree = _Tree(document)
    for operation in patch:
        try:
            tree.apply(operation)
        except KeyError as error:
            raise PatchError(f"an operation has no {error}") from error
    return tree.root


class _Tree:
    """A document under change. A container is copied before its first change, and once only."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._copies: dict[int, Any] = {}
        """The copies by their identity; holding them keeps their identities their own."""

    def apply(self, operation: Mapping[str, Any]) -> None:
        """Apply one operation. Raises `PatchError`, and `KeyError` for a member that is missing."""
        name, tokens = operation["op"], parse_pointer(operation["path"])
        if name == "replace":
            self._put(tokens, operation["value"], replace=True)
        elif name == "add":
            self._put(tokens, operation["value"])
        elif name == "remove":
            self._remove(tokens)
        elif name == "copy":
            # A copy of its own: the next operation may change one of the two.
            self._put(tokens, copy.deepcopy(self._read(parse_pointer(operation["from"]))))
        elif name == "move":
            self._move(parse_pointer(operation["from"]), tokens)
        elif name == "test":
            if not same(self._read(tokens), operation["value"]):
                raise PatchError(f"the test of {operation['path']} failed")
        else:
            raise PatchError(f"{name!r} is no operation")

    def _move(self, source: list[str], target: list[str]) -> None:
        if len(target) > len(source) and target[: len(source)] == source:
            raise PatchError("a value can't be moved into itself")
        value = self._read(source)
        if source:
            self._remove(source)
            self._put(target, value)

    def _read(self, tokens: list[str]) -> Any:
        node = self.root
        for token in tokens:
            node = node[_existing(node, token)]
        return node

    def _put(self, tokens: list[str], value: Any, *, replace: bool = False) -> None:
        if not tokens:
            self.root = value
            return
        parent, token = self._parent(tokens), tokens[-1]
        if replace:
            parent[_existing(parent, token)] = value
        elif isinstance(parent, list):
            parent.insert(len(parent) if token in _END else _index(token, len(parent)), value)
        elif isinstance(parent, dict):
            parent[token] = value
        else:
            raise PatchError(f"there is no place for {token!r}")

    def _remove(self, tokens: list[str]) -> None:
        if not tokens:
            self.root = None
            return
        parent = self._parent(tokens)
        del parent[_existing(parent, tokens[-1])]

    def _parent(self, tokens: list[str]) -> Any:
        """Return the container of the value at `tokens`, as a copy that may be changed."""
        node = self.root = self._own(self.root)
        for token in tokens[:-1]:
            key = _existing(node, token)
            node[key] = child = self._own(node[key])
            node = child
        return node

    def _own(self, node: Any) -> Any:
        if id(node) in self._copies or not isinstance(node, dict | list):
            return node
        made = node.copy()
        self._copies[id(made)] = made
        return made


def parse_pointer(pointer: Any) -> list[str]:
    """Return the reference tokens of a JSON Pointer (RFC 6901); none for the whole document. Raises `PatchError`."""
    if not isinstance(pointer, str) or (pointer and pointer[0] != "/"):
        raise PatchError(f"{pointer!r} is no pointer")
    tokens = pointer.split("/")[1:]
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens] if "~" in pointer else tokens


def _existing(node: Any, token: str) -> Any:
    """Return `token` as a key or an index of something that is there. Raises `PatchError`."""
    if isinstance(node, dict):
        if token in node:
            return token
    elif isinstance(node, list):
        return _index(token, len(node) - 1)
    raise PatchError(f"there is no {token!r}")


def _index(token: str, most: int) -> int:
    if not _INDEX.fullmatch(token) or int(token) > most:
        raise PatchError(f"{token!r} is no index here")
    return int(token)


def same(left: Any, right: Any) -> bool:
    """Return True if two JSON values are equal. Unlike in Python, `true` is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
