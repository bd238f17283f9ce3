"""Counts how the sources read: docstrings, comments, file sizes, names that stand twice.

    python3 scripts/house.py            prints the figures
    python3 scripts/house.py --check    exit code 1 where one of them is beyond its limit (CI)

`--root DIRECTORY` counts another checkout, for a comparison with an older commit. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

OPENINGS: Final = frozenset(
    {"what", "who", "whom", "whose", "whoever", "whatever", "whether", "which", "of", "how", "where"}
)
"""First words of a docstring that make a reader wait for its subject."""

OPENED_TEST: Final = re.compile(rf"^\s*(?:async )?def test_(?:{'|'.join(sorted(OPENINGS))}|nobody)_", re.MULTILINE)
"""A test that is not named by its unit first."""

UNPLAIN: Final = re.compile(
    r"\b(?:is|are|was|were|be) told\b(?!\s(?:apart|from))|\bput(?:s|ting)? out\b|\b(?:go|goes|going|went) on\b"
    r"|\banew\b|\bthere and then\b|(?:[.#] |\"\"\")(?:Who|Whoever) [a-z]",
    re.IGNORECASE,
)
"""Phrases that a reader has to read twice, in code and pages."""

SMALL: Final = 90
"""Lines below which a module with one importer may as well stand in that one."""

LIMITS: Final = {
    "docstring openings %": 2.0,
    "docstring openings in scripts and tests %": 2.0,
    "test name openings": 0,
    "unplain phrases": 0,
    "small files with one importer": 28,
    "class names used twice": 0,
    "lines: all": 193_000,
    "lines: docs/benchmarks": 1_045,
    "lines: locks": 2_520,
    "lines: scripts/bench": 5_650,
    "lines: tests/support": 13_500,
    "subjects of the last 50 commits over 72 characters": 0,
}
"""Most of each figure that CI lets pass."""

FLOORS: Final = {"comment lines %": 1.7, "comments and attribute docstrings %": 3.2}
"""Least of each figure that CI lets pass."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the product: its dotted name, text and syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")


def main() -> None:
    """Print the figures; with `--check` fail where one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit code 1 where a figure is beyond its limit")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is counted")
    options = parser.parse_args()
    figures = measured(options.root)
    width = max(map(len, figures))
    for name, value in figures.items():
        limit = f"  (limit {LIMITS[name]:g})" if name in LIMITS else ""
        limit = f"  (at least {FLOORS[name]:g})" if name in FLOORS else limit
        print(f"{name:<{width}}  {value:,.10g}{limit}")
    over = [name for name, limit in LIMITS.items() if figures[name] > limit]
    under = [name for name, limit in FLOORS.items() if figures[name] < limit]
    if options.check and (over or under):
        sys.exit(f"beyond the limit: {', '.join([*over, *under])}")


def measured(root: Path) -> dict[str, float]:
    """Return the figures of a checkout, by name."""
    modules = [*modules_of(root)]
    docstrings, opened = _docstring_openings(module.tree for module in modules)
    tools, opened_tools = _docstring_openings(_trees(root, "scripts", "tests"))
    sizes = sorted(module.lines for module in modules if module.lines > 3)
    importers = _importers(modules)
    small = [module for module in modules if 3 < module.lines < SMALL and len(importers[module.name]) == 1]
    classes = Counter(
        node.name for module in modules for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )  # fmt: skip
    comments = sum(map(_comment_lines, modules))
    attributes = sum(_attribute_docstring_lines(module.tree) for module in modules)
    lines = sum(module.lines for module in modules)
    return {
        "docstrings": docstrings,
        "docstring openings": opened,
        "docstring openings %": round(100 * opened / docstrings, 1),
        "docstring openings in scripts and tests %": round(100 * opened_tools / tools, 1),
        "test name openings": sum(len(OPENED_TEST.findall(text)) for text in _tests(root)),
        "unplain phrases": sum(len(UNPLAIN.findall(text)) for text in _written(root)),
        "comment lines %": round(100 * comments / lines, 1),
        "comments and attribute docstrings %": round(100 * (comments + attributes) / lines, 1),
        "files": len(sizes),
        "file median": statistics.median(sizes),
        "file p90": statistics.quantiles(sizes, n=10)[-1],
        "small files with one importer": len(small),
        "class names used twice": sum(count > 1 for count in classes.values()),
        "subjects of the last 50 commits over 72 characters": _long_subjects(root),
        **{f"lines: {room}": lines for room, lines in _lines_by_room(root).items()},
    }


def modules_of(root: Path) -> Iterator[Module]:
    """Yield the modules of both packages, wherever their sources stand."""
    for top in ("app", "workers"):
        for path in sorted((root / top).rglob("*.py")):
            text = path.read_text()
            name = ".".join(path.relative_to(root / top).with_suffix("").parts).removesuffix(".__init__")
            # Before the packages had names of their own, the directories were the packages.
            prefix = "" if name.split(".")[0].startswith("eventsync") else f"{top}."
            yield Module(f"{prefix}{name}", text, ast.parse(text))


def _trees(root: Path, *tops: str) -> Iterator[ast.Module]:
    """Yield the syntax trees of all modules below these directories."""
    for top in tops:
        for path in sorted((root / top).rglob("*.py")):
            yield ast.parse(path.read_text())


def _docstring_openings(trees: Iterable[ast.Module]) -> tuple[int, int]:
    """Count the docstrings, and those of them that open with one of `OPENINGS`."""
    docstrings = [text for tree in trees for text in _docstrings(tree)]
    return len(docstrings), sum(text.split(maxsplit=1)[0].rstrip(",:").lower() in OPENINGS for text in docstrings)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from filter(None, [ast.get_docstring(node)])


def _comment_lines(module: Module) -> int:
    """Count lines that are a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def _attribute_docstring_lines(tree: ast.Module) -> int:
    """Count the lines of texts behind an assignment, which explain a constant or an attribute."""
    return sum(
        text.end_lineno - text.lineno + 1
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for before, text in pairwise(body)
        if isinstance(before, ast.Assign | ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
        and text.end_lineno is not None
    )


def _written(root: Path) -> Iterator[str]:
    """Yield the texts of all modules and pages that people write. This file names the phrases that it counts."""
    made = {"cli.md", "http.md", "settings.md"}
    kinds_of = {"app": "py js", "workers": "py", "scripts": "py", "tests": "py mjs", "docs": "md"}
    kinds_of |= {"clients/js/src": "js", "clients/js/test": "mjs", "clients/python": "py"}
    for top, kinds in kinds_of.items():
        for kind in kinds.split():
            for path in sorted((root / top).rglob(f"*.{kind}")):
                if path.name not in {"house.py", "test_documents.py"} and (kind != "md" or path.name not in made):
                    yield path.read_text()
    yield from (path.read_text() for path in sorted(root.glob("*.md")))


def _tests(root: Path) -> Iterator[str]:
    """Yield the texts of all test modules."""
    yield from (path.read_text() for path in sorted((root / "tests").rglob("test_*.py")))


def _importers(modules: list[Module]) -> dict[str, set[str]]:
    """Return module → the modules that import it or something of it."""
    names = {module.name for module in modules}
    importers: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    importers[whole if whole in names else node.module].add(module.name)
    return importers


def _long_subjects(root: Path) -> int:
    command = ["git", "-C", str(root), "log", "-50", "--format=%s"]
    log = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return sum(len(subject) > 72 for subject in log.splitlines())


def _lines_by_room(root: Path) -> dict[str, int]:
    """Return room → lines of all files that are tracked there, and the whole."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\0")
    rooms: Counter[str] = Counter()
    for name in filter(None, listed):
        path = root / name
        if path.is_file() and not path.is_symlink():
            rooms[_room(name)] += path.read_bytes().count(b"\n")
    return dict(sorted(rooms.items())) | {"all": rooms.total()}


def _room(name: str) -> str:
    parts = name.split("/")
    if parts[0] == "app":
        inner = parts[2:] if parts[1] == "eventsync" else parts[1:]
        return f"app/{inner[0]}" if len(inner) > 1 else "app"
    return "/".join(parts[:2]) if parts[0] in {"tests", "docs", "scripts", "clients"} and len(parts) > 2 else parts[0]


if __name__ == "__main__":
    main()
