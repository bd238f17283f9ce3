"""The rules file: the shapes that it declares, and the rules of who may read and write."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventsync.domain.access.rules import EVERY, AccessRules, read_access
from eventsync.domain.predicates.declarations import MAX_DEFINITIONS, read_rules
from eventsync.domain.predicates.definitions import Definition
from eventsync.errors import ConfigurationError, InvalidPredicate
from eventsync.settings import Settings
from eventsync.stores.log.registry import Applied, Declaration, StoredRules

DEFAULT: Final = Path("rules.toml")
"""The rules file if none is named: of the current directory."""

MAX_BYTES: Final = 1024 * 1024
"""Most bytes of a rules file."""


@dataclass(frozen=True, slots=True)
class RulesFile:
    """A rules file: its shapes by name, its rules (None without `[auth]`), and all that is wrong in it."""

    definitions: Mapping[str, Definition]
    access: AccessRules | None
    problems: tuple[InvalidPredicate, ...]

    @property
    def declarations(self) -> list[Declaration]:
        """All definitions to declare: those of the shapes, and those that the read rules are made of."""
        rules = self.access.definitions if self.access is not None else {}
        return [Declaration.of(definition) for definition in (*self.definitions.values(), *rules.values())]

    @property
    def ruled(self) -> frozenset[str]:
        """The collections that have rules of their own."""
        return frozenset() if self.access is None else frozenset(self.access.tables) - {EVERY}

    @property
    def spec(self) -> str | None:
        """The text of the rules, as it is stored."""
        return None if self.access is None else self.access.spec


def read_tree(tree: Mapping[str, Any]) -> RulesFile:
    """Read a rules file that has been parsed. Never raises: `problems` has every error, with its place."""
    shapes = read_rules(tree)
    access, found = read_access(tree)
    problems = [*shapes.problems, *found]
    listed = [*shapes.definitions.values(), *(access.definitions.values() if access else ())]
    for collection, count in Counter(each.collection for each in listed).items():
        if count > MAX_DEFINITIONS:
            reason = f"{collection} has {count} shapes and parts of read rules; at most {MAX_DEFINITIONS}"
            problems.append(InvalidPredicate("collections", reason))
    return RulesFile(shapes.definitions, access, tuple(sorted(problems, key=lambda problem: problem.place)))


def path_of(settings: Settings, named: Path | None = None) -> Path:
    """Return the path of the rules file: the one that is named, else that of the settings, else the default."""
    return named or settings.rules_file or DEFAULT


def read_file(path: Path) -> RulesFile:
    """Read a rules file. Raises `ConfigurationError` if it can't be read or is not TOML."""
    try:
        return read_tree(tomllib.loads(content_of(path, "the rules file", MAX_BYTES).decode()))
    except ValueError as error:  # of TOML, and of UTF-8
        raise ConfigurationError(f"the rules file {path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(f"the rules file {path} nests too deeply") from error


def content_of(path: Path, name: str, max_bytes: int) -> bytes:
    """Return the content of a file; errors call it `name`. Raises `ConfigurationError` for one with more bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(f"{name} {path} can't be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ConfigurationError(f"{name} {path} has more than {max_bytes} bytes")
    return content


def require_valid(path: Path, rules: RulesFile) -> None:
    """Raise `ConfigurationError`, with the first problem of a rules file, if there is any."""
    if rules.problems:
        first, *others = rules.problems
        more = f" (and {len(others)} more: see `eventsync rules check`)" if others else ""
        raise ConfigurationError(f"the rules file {path} can't be applied: {first.message}{more}")


def require_auth(rules: RulesFile, in_force: StoredRules | None) -> None:
    """Raise `ConfigurationError` if applying a file without `[auth]` would take away the one that is in force."""
    if rules.access is None and in_force is not None:
        raise ConfigurationError(
            "the rules in force have [auth], and the file has none: `eventsync rules apply` takes it away with --open"
        )


def applied_text(applied: Applied) -> str:
    """Return the outcome of an apply as a line."""
    parts = (("new", applied.new), ("changed", applied.changed), ("removed", applied.removed))
    said = [f"{what}: {', '.join(names)}" for what, names in parts if names]
    said += [f"{len(applied.unchanged)} unchanged"] if applied.unchanged or not (said or applied.access) else []
    said += [f"[auth] and its rules: {applied.access}"] if applied.access else []
    return f"rules {applied.number}: {'; '.join(said)}"
