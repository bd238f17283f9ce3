"""The faces of the packages: what each shows to the others, and nothing that is not there.

A package shows names of its own, or modules. What is in neither is its own business.
"""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from support.waiting import patience

ROOT = Path(__file__).parents[2]
SOURCES = {"eventsync": ROOT / "app" / "eventsync", "eventsync_workers": ROOT / "workers" / "eventsync_workers"}
PUBLIC = {"eventsync": ["NodeStorage", "Settings", "__version__", "asgi"]}
"""Shown to users, not to the other package of this distribution, which takes modules."""


def modules() -> dict[str, Path]:
    """Return the file of each module, those of packages included."""
    found = {}
    for name, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = (name, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PACKAGES = sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


def imported(tree: ast.Module) -> set[str]:
    """Return the full names of what a module imports: modules, and names of packages."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            of_package = node.module in PACKAGES
            found |= {f"{node.module}.{alias.name}" if of_package else node.module for alias in node.names}
    return found


@functools.cache
def used() -> dict[str, dict[str, set[str]]]:
    """Return, by package and then by name, who imports the name from outside of the package."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for importer, path in MODULES.items():
        for name in imported(ast.parse(path.read_text())):
            parts = name.split(".")
            for package in (".".join(parts[:end]) for end in range(1, len(parts))):
                if package in PACKAGES and not f"{importer}.".startswith(f"{package}."):
                    found[package][parts[package.count(".") + 1]].add(importer)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_what_it_is(package: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[package].read_text())), package


@pytest.mark.parametrize("package", sorted({*PACKAGES} - PUBLIC.keys()))
def test_a_face_lists_the_modules_that_others_import(package: str) -> None:
    face = importlib.import_module(package)
    for name, importers in used().get(package, {}).items():
        assert name in face.__all__, f"{package}.__all__ lacks {name!r}, which {min(importers)} imports"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_lists_existing_names_only(package: str) -> None:
    face = importlib.import_module(package)
    names = getattr(face, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(face, name) or f"{package}.{name}" in MODULES, f"{package}.__all__ names {name!r}"


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_the_public_face_is_what_is_promised(package: str) -> None:
    face = importlib.import_module(package)
    assert sorted(face.__all__) == PUBLIC[package]
    assert all(getattr(face, name) is not None for name in face.__all__)
    assert set(face.__all__) <= set(dir(face))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        face.nothing  # noqa: B018 - it raises


def test_the_public_face_loads_only_what_is_asked_for() -> None:
    program = "import sys, eventsync; print(*sys.modules)"
    words = [sys.executable, "-c", program]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=patience(30), check=True).stdout.split()
    assert [name for name in shown if name.startswith(("eventsync.", "starlette", "pymongo", "pydantic"))] == []
