"""The page of the Python client's public names, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import eventsync_client

_HEAD = """\
# Python client

The public names of the package `eventsync_client`, with their signatures. `scripts/docs pages` makes this page; a test
holds it to the code. Its [README](../../clients/python/README.md) has the way to begin.
"""

_INTERNAL = {
    "AsyncClient": {"ask_token", "check", "durable", "moved", "pulse", "wake"},
    "Client": {"run"},
    "Shape": {"awaits_changes"},
}
"""Members that only other classes of the package call."""


def python_client() -> str:
    """Return the page."""
    lines = [_HEAD]
    errors = list[type]()
    for name, found in _public():
        if inspect.isclass(found) and issubclass(found, Exception):
            errors.append(found)
        else:
            lines += _entry(name, found)
    lines += ["## Errors", "", "Each with the class that it is a kind of.", ""]
    for error in sorted(errors, key=lambda one: len(one.__mro__)):
        lines += [f"- `{error.__name__}` ({error.__base__ and error.__base__.__name__}): {' '.join(_text(error))}"]
    return "\n".join(lines).rstrip() + "\n"


def _public() -> list[tuple[str, Any]]:
    return [(name, getattr(eventsync_client, name)) for name in eventsync_client.__all__]


def _entry(name: str, found: Any) -> Iterator[str]:
    yield from (f"## {name}", "")
    if not inspect.isclass(found):
        yield from ("```python", f"{name} = {_plain(str(found))}", "```", "")
        return
    members = list(_members(found))
    head = f"class {name}{_parameters(found)}"
    yield from (
        "```python",
        *wrapped(head),
        *(line for one, member in members for line in _shown(one, member)),
        "```",
        "",
    )
    yield from (*_text(found), "")
    for one, member in members:
        if text := _text(member):
            yield from point(one, " ".join(text))
    if any(_text(member) for _, member in members):
        yield ""


def _members(found: type) -> Iterator[tuple[str, Any]]:
    """Yield what a class, or a base in this package, defines and does not hide."""
    seen = set[str]()
    for base in found.__mro__:
        if base.__module__.startswith("eventsync_client"):
            for name, member in vars(base).items():
                hidden = name.startswith("_") or name in _INTERNAL.get(found.__name__, ()) or name in seen
                if not hidden and (callable(member) or isinstance(member, property)):
                    seen.add(name)
                    yield name, member


def _shown(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, property):
        returned = inspect.signature(member.fget).return_annotation if member.fget else "Any"
        yield f"    {name}: {_plain(str(returned))}"
        return
    word = "async def" if inspect.iscoroutinefunction(member) else "def"
    yield from wrapped(f"{word} {name}{_plain(str(inspect.signature(member)))}", "    ")


def _parameters(found: type) -> str:
    if issubclass(found, Enum) or (found.__init__ is object.__init__ and not is_dataclass(found)):
        return ""
    return _plain(re.sub(r"^\(self(, )?|(?<=\() -> None$", "(", str(inspect.signature(found))).replace(" -> None", ""))


def _plain(text: str) -> str:
    """Return a signature without the quotes and modules of its annotations."""
    text = re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", text.replace("<factory>", "..."))
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text).replace("'", '"')


def point(name: str, text: str) -> list[str]:
    """Return the lines of a point about a name."""
    line = f"- `{name}`" + (f": {text}" if text else "")
    return _lines(re.sub(r"\s+", " ", line), 120, "", "  ")


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a signature."""
    return _lines(text, 118, indent, f"{indent}    ")


def _lines(text: str, width: int, first: str, following: str) -> list[str]:
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=following, **options)


def _text(found: Any) -> list[str]:
    """Return the docstring's own lines. An inherited one, or one that dataclasses make, says nothing more."""
    own = found.__doc__ if isinstance(found, type) else getattr(found, "__doc__", None)
    if not own or (isinstance(found, type) and own.startswith(f"{found.__name__}(")):
        return []
    return inspect.cleandoc(own).splitlines()
