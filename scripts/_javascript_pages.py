"""The page of the JavaScript client's exports, from the documentation comments of its sources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from scripts._client_pages import point, wrapped
from scripts._jsdoc import Entry, Named, Package

_PACKAGE: Final = Path(__file__).resolve().parent.parent / "clients" / "js"
_HEAD: Final = """\
# JavaScript client

The exports of the package `eventsync`, with their types. `scripts/docs pages` makes this page; a test holds it to the
code. Its [README](../../clients/js/README.md) has the way to begin.
"""
_OWN: Final = frozenset({"CollectionConfig", "IsWhole", "Made", "Share", "ShapesOf"})
"""Types that others are made of, and that no application writes."""

_TESTS: Final = "For tests"
"""The first words of an option that no application needs."""


def javascript_client() -> str:
    """Return the page."""
    package, entries = _exports()
    lines = [_HEAD]
    for name, exports in entries.items():
        lines += [f"## {name}", ""]
        for entry in exports:
            lines += _export(entry)
    lines += ["## Types", "", "What the above names.", ""]
    for entry in _types(package, [entry for exports in entries.values() for entry in exports]):
        lines += _type(entry)
    return "\n".join(lines).rstrip() + "\n"


def undocumented() -> list[str]:
    """Return the exports, public members and options that have no text."""
    package, entries = _exports()
    exported = [entry for exports in entries.values() for entry in exports]
    lacking = [entry.name for entry in exported if not entry.text]
    for entry in exported:
        lacking += [f"{entry.name}.{one.name}" for one in entry.members if not one.is_internal and not one.text]
    options = package.resolve("ClientOptions", "client.js")
    assert options  # noqa: S101 - its type checker knows it
    return lacking + [f"ClientOptions.{one.name}" for one in options.properties if not one.text]


def _exports() -> tuple[Package, dict[str, list[Entry]]]:
    """Return what each entry point exports, each thing once."""
    package = Package(_PACKAGE / "src")
    exports = json.loads((_PACKAGE / "package.json").read_text())["exports"]
    entries = dict[str, list[Entry]]()
    seen = set[tuple[str, str]]()
    for path, found in exports.items():
        module = found["default"].removeprefix("./src/")
        entries[f"eventsync{path[1:]}"] = [
            entry
            for entry in package.exports(module)
            if not entry.is_internal and (entry.module, entry.name) not in seen
        ]
        seen |= {(entry.module, entry.name) for entry in entries[f"eventsync{path[1:]}"]}
    return package, entries


def _types(package: Package, entries: list[Entry]) -> list[Entry]:
    """Return the types that entries name, and those that these name, by name."""
    shown = {(entry.module, entry.name) for entry in entries}
    found = list[Entry]()
    waiting = [_public(entry) for entry in entries]
    while waiting:
        for entry in package.references(waiting.pop()):
            if entry.kind == "type" and (entry.module, entry.name) not in shown:
                shown.add((entry.module, entry.name))
                found += [entry] * (entry.name not in _OWN)
                waiting.append(entry)
    return sorted(found, key=lambda entry: entry.name)


def _public(entry: Entry) -> Entry:
    """Return an entry without what is of no use to an application."""
    members = [replace(member, module=entry.module) for member in entry.members if not member.is_internal]
    parameters = [one for one in entry.parameters if not one.text.startswith(_TESTS)]
    return replace(entry, members=members, parameters=parameters)


def _export(entry: Entry) -> Iterator[str]:
    entry = _public(entry)
    yield from (f"### {entry.name}", "", "```ts")
    if entry.kind == "function":
        yield from wrapped(_signature(entry))
    else:
        base = f" extends {entry.base}" if entry.base else ""
        yield f"class {entry.name}{_generic(entry.templates)}{base}"
        for member in entry.members:
            yield from wrapped(_signature(member), "    ")
    yield from ("```", "", *entry.text.splitlines(), "")
    points = list(_explained(entry.parameters))
    for member in entry.members:
        notes = " ".join(f"`{one.name}`: {_sentence(one.text)}" for one in member.parameters if one.text)
        points.append(point(member.name, " ".join(filter(None, (_flat(member.text), notes)))))
    if points:
        yield from (line for point in points for line in point)
        yield ""


def _type(entry: Entry) -> Iterator[str]:
    yield from (f"### {entry.name}", "")
    if entry.text:
        yield from (*entry.text.splitlines(), "")
    if entry.properties:
        for one in entry.properties:
            mark = "?" if one.optional else ""
            yield from point(f"{one.name}{mark}: {_plain(one.type)}", one.text)
        yield ""
    else:
        yield from (
            "```ts",
            *wrapped(f"type {entry.name}{_generic(entry.templates)} = {_plain(entry.type)}"),
            "```",
            "",
        )


def _explained(parameters: list[Named]) -> Iterator[list[str]]:
    for one in parameters:
        if one.text:
            yield point(one.name, one.text)


def _signature(entry: Entry) -> str:
    if entry.kind != "function":
        return f"{entry.name}: {_plain(entry.type)}" if entry.type else entry.name
    options = {one.name.split(".")[0]: list[str]() for one in entry.parameters if "." in one.name}
    for one in entry.parameters:
        if "." in one.name and not one.text.startswith(_TESTS):
            first, _, name = one.name.partition(".")
            options[first].append(f"{name}{'?' * one.optional}: {_plain(one.type)}")
    words = list[str]()
    for one in entry.parameters:
        if "." not in one.name:
            type_ = f"{{ {', '.join(options[one.name])} }}" if one.name in options else _plain(one.type)
            words.append(f"{'...' * (one.name == entry.rest)}{one.name}{'?' * one.optional}: {type_}")
    return f"{entry.name}{_generic(entry.templates)}({', '.join(words)}): {_plain(entry.type)}"


def _generic(templates: list[Named]) -> str:
    if not templates:
        return ""
    words = list[str]()
    for one in templates:
        bound, _, default = one.type.partition(" = ")
        words.append(one.name + (f" extends {_plain(bound)}" if bound else "") + (f" = {default}" if default else ""))
    return f"<{', '.join(words)}>"


def _plain(type_: str) -> str:
    """Return a type without the modules that it comes from."""
    return re.sub(r'import\("[^"]+"\)\.', "", type_)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
