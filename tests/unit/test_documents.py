"""The documents: their links, paths and names exist, and their language is plain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.bench.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
FILES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md")))
PAGES = [str(file.relative_to(ROOT)) for file in FILES]
MADE = (
    "docs/benchmarks/",
    *(f"docs/reference/{name}.md" for name in ("cli", "http", "javascript", "metrics", "python", "settings")),
)
"""Pages that are made from the code or by benchmarks."""

WRITTEN = [page for page in PAGES if not page.startswith(MADE)]

CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"`((?:app|clients|docs|examples|locks|scripts|tests|workers)/[\w./*-]*)[` ]")
UNPLAIN = re.compile(r"\b(is told to|put out|goes on|anew|there and then)\b")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", CODE.sub("", text_of(page))):
        linked = file.parent / target if target else file
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_reference_links_are_defined(page: str) -> None:
    text = CODE.sub("", text_of(page))
    used = set(re.findall(r"\]\[([\w-]+)\]", text))
    assert used == set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_the_text_exist(page: str) -> None:
    missing = [path for path in PATH.findall(text_of(page)) if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("page", WRITTEN)
def test_benchmarks_in_the_text_exist(page: str) -> None:
    named = set(re.findall(r"`scripts/bench/run ([a-z]\w*)", text_of(page))) - {"index"}
    assert named <= BENCHMARKS.keys()


@pytest.mark.parametrize("page", WRITTEN)
def test_lines_are_short(page: str) -> None:
    prose = CODE.sub("", text_of(page)).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.lstrip().startswith(("|", "[", "`"))] == []


@pytest.mark.parametrize("page", WRITTEN)
def test_the_language_is_plain(page: str) -> None:
    assert UNPLAIN.findall(CODE.sub("", text_of(page))) == []


def test_the_readme_is_short() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_glossary_defines_each_word_once() -> None:
    entries = re.findall(r"^- \*\*(.+?)\*\*: ", text_of("docs/glossary.md"), re.MULTILINE)
    words = [word for entry in entries for word in entry.split(", ")]
    assert len(words) == len(set(words))
    assert len(entries) <= 63


def test_the_architecture_names_classes_where_they_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| `([\w./]+\.py)` \|$", text_of("ARCHITECTURE.md"), re.MULTILINE)
    assert len(rows) == 5
    for name, path in rows:
        assert re.search(rf"^class {name}\b", text_of(path), re.MULTILINE), name
