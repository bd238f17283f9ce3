"""The documentation comments of the JavaScript client: what a module exports, with types and texts.

A comment belongs to the declaration behind it, or defines types itself (`@typedef`). The types are those that `tsc`
checks. Something is public if it is exported, or a member of what is, and its comment has no `@internal`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_COMMENT: Final = re.compile(r"/\*\*(.*?)\*/\n?(?=([ ]*[^\n]*))", re.DOTALL)
_TAG: Final = re.compile(r"(?:^|(?<=\s))@(\w+)")
_IMPORTED: Final = re.compile(r'import\("([^"]+)"\)\.(\w+)')
_CLASS: Final = re.compile(r"(?:export )?class (\w+)(?: extends (\w+))?")
_FUNCTION: Final = re.compile(r"export (?:async )?function (\w+)\(([^)]*)\)?")
_CONSTANT: Final = re.compile(r"export const (\w+)")
_MEMBER: Final = re.compile(r"  (get |async |)(\w+)(?:\(([^)]*)\) \{| = .*;|;)$")
_FIELD: Final = re.compile(r"    this\.(\w+) = ")


@dataclass(frozen=True, slots=True)
class Named:
    """A parameter, a property of an object, or a parameter of a type: its name, type and text."""

    name: str
    type: str
    text: str
    optional: bool = False


@dataclass(slots=True)
class Entry:
    """A function, a class, a member of a class, or a type."""

    name: str
    kind: str
    """`function`, `class`, `const`, `get`, `field` or `type`."""

    text: str
    type: str = ""
    """Of a type: what it stands for. Of a function, a getter or a field: what comes back."""

    module: str = ""
    base: str = ""
    templates: list[Named] = field(default_factory=list)
    parameters: list[Named] = field(default_factory=list)
    properties: list[Named] = field(default_factory=list)
    members: list[Entry] = field(default_factory=list)
    is_internal: bool = False
    rest: str = ""
    """The parameter that takes all others, if there is one."""

    def texts(self) -> Iterator[str]:
        """Yield every type that this names."""
        yield self.type
        for named in (*self.templates, *self.parameters, *self.properties):
            yield named.type
        for member in self.members:
            yield from member.texts()


class Package:
    """The modules of a package, read when they are asked for."""

    def __init__(self, sources: Path) -> None:
        self.sources = sources
        self._modules: dict[str, dict[str, Entry]] = {}

    def module(self, name: str) -> dict[str, Entry]:
        """Return what a module such as `adapters/idb.js` defines, by name."""
        if name not in self._modules:
            self._modules[name] = {entry.name: entry for entry in _read((self.sources / name).read_text(), name)}
        return self._modules[name]

    def exports(self, name: str) -> list[Entry]:
        """Return what a module exports, but for types, also if another module defines it."""
        text = (self.sources / name).read_text()
        names = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.MULTILINE)
        own = [self.module(name).get(one) or Entry(one, "function", "", module=name) for one in names]
        for names, origin in re.findall(r'^export \{ ([^}]+) \} from "([^"]+)";', text, re.MULTILINE):
            other = self.module(self._path(name, origin))
            own += [other[one] for one in names.split(", ")]
        return own

    def resolve(self, name: str, module: str) -> Entry | None:
        """Return the type or class that a name stands for in a module, or None for one of the language."""
        found = self.module(module).get(name)
        alias = found and found.kind == "type" and not found.properties and _IMPORTED.match(found.type)
        if not alias or not found or not alias[1].startswith("."):
            return found
        return self.resolve(alias[2], self._path(module, alias[1]))

    def references(self, entry: Entry) -> Iterator[Entry]:
        """Yield the types and classes of the package that an entry names."""
        for text in entry.texts():
            for origin, name in _IMPORTED.findall(text):
                if origin.startswith(".") and (found := self.resolve(name, self._path(entry.module, origin))):
                    yield found
            for name in re.findall(r"[A-Z]\w+", _IMPORTED.sub("", text)):
                if found := self.resolve(name, entry.module):
                    yield found

    def _path(self, module: str, origin: str) -> str:
        path = ((self.sources / module).parent / origin).resolve()
        return str(path.relative_to(self.sources.resolve()))


def _read(text: str, module: str) -> Iterator[Entry]:
    last: Entry | None = None
    classes = [(found.start(), found[1]) for found in re.finditer(r"^(?:export )?class (\w+)", text, re.MULTILINE)]
    for match in _COMMENT.finditer(text):
        code = match[2]
        described, tags = _tags(match[1])
        inside = next((name for start, name in reversed(classes) if start < match.start()), None)
        if any(tag == "typedef" for tag, _ in tags):
            yield _typedef(described, tags, module)
        elif found := _FUNCTION.match(code):
            entry = _callable(found[1], described, tags, found[2])
            entry.module = module
            yield entry
        elif found := _CONSTANT.match(code):
            yield Entry(found[1], "const", described, _type_of(tags), module, is_internal=_has(tags, "internal"))
        elif found := _CLASS.match(code):
            last = Entry(found[1], "class", described, module=module, base=found[2] or "", templates=_templates(tags))
            last.is_internal = _has(tags, "internal")
            yield last
        elif last and last.name == inside and (member := _member(described, tags, code)):
            last.members.append(member)


def _member(text: str, tags: list[tuple[str, str]], code: str) -> Entry | None:
    of_constructor = _FIELD.match(code)
    found = _MEMBER.match(code)
    if of_constructor:
        member = Entry(of_constructor[1], "field", text, _type_of(tags))
    elif not found or found[2] == "constructor":
        return None
    elif found[1] == "get ":
        member = Entry(found[2], "get", text, _returned(tags)[0])
    elif found[3] is None:
        member = Entry(found[2], "field", text, _type_of(tags))
    else:
        return _callable(found[2], text, tags, found[3])
    member.is_internal = _has(tags, "internal")
    return member


def _callable(name: str, text: str, tags: list[tuple[str, str]], head: str) -> Entry:
    returned, of_result = _returned(tags)
    text = " ".join(filter(None, (text, of_result)))
    entry = Entry(name, "function", text, returned or "void", templates=_templates(tags))
    entry.parameters = [_named(rest) for tag, rest in tags if tag == "param"]
    entry.is_internal = _has(tags, "internal")
    if "..." in head:
        entry.rest = head.partition("...")[2].strip()
    return entry


def _typedef(text: str, tags: list[tuple[str, str]], module: str) -> Entry:
    (rest,) = [rest for tag, rest in tags if tag == "typedef"]
    defined, behind = _braced(rest)
    name, _, more = behind.partition(" ")
    text = " ".join(filter(None, (text, more.removeprefix("-").strip())))
    entry = Entry(name, "type", text, defined, module=module, templates=_templates(tags))
    entry.properties = [_named(rest) for tag, rest in tags if tag == "property"]
    return entry


def _templates(tags: list[tuple[str, str]]) -> list[Named]:
    return [_named(rest) for tag, rest in tags if tag == "template"]


def _returned(tags: list[tuple[str, str]]) -> tuple[str, str]:
    found = [_braced(rest) for tag, rest in tags if tag == "returns"]
    return found[0] if found else ("", "")


def _type_of(tags: list[tuple[str, str]]) -> str:
    return next((_braced(rest)[0] for tag, rest in tags if tag == "type"), "")


def _has(tags: list[tuple[str, str]], name: str) -> bool:
    return any(tag == name for tag, _ in tags)


def _tags(comment: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text of a comment, and its tags with what is behind each."""
    text = re.sub(r"^\s*\* ?", "", comment, flags=re.MULTILINE).strip()
    found = list(_TAG.finditer(text))
    ends = [*(one.start() for one in found), len(text)][1:]
    tags = [(one[1], " ".join(text[one.end() : end].split())) for one, end in zip(found, ends, strict=False)]
    return text[: found[0].start()].strip() if found else text, tags


def _named(rest: str) -> Named:
    """Return `{type} [name=default] - text`."""
    type_, behind = _braced(rest)
    found = re.match(r"(?:\[([\w.]+)(?:=(.*?))?\]|([\w.]+))(?: (?:- )?(.*)|$)", behind)
    assert found, rest  # noqa: S101 - it has passed the type checker
    type_ = f"{type_} = {found[2]}" if found[2] else type_
    return Named(found[1] or found[3], type_, found[4] or "", optional=bool(found[1]))


def _braced(rest: str) -> tuple[str, str]:
    """Split `{type} behind`; the type may have braces of its own."""
    if not rest.startswith("{"):
        return "", rest
    depth = 0
    for at, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return rest[1:at].strip(), rest[at + 1 :].strip()
    raise ValueError(rest)
