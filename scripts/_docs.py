"""Builds and serves the documentation with zensical, strict: a link to a page or an anchor that is missing fails.

The site has the layout of the repository, so that a link works in both: the pages at the root, `docs/`, `examples/`,
and the files that they link to.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = ROOT / "zensical.toml"
STAGE: Final = ROOT / "build" / "docs"
"""The folder in which the generator finds the pages: `docs_dir` in its configuration."""

_ADDRESS: Final = "127.0.0.1:8001"
_LINK: Final = re.compile(r"\]\(([^)#\s]+)")


def main() -> None:
    command = sys.argv[1]
    wrong = [*navigation_faults(), *stage()]
    for line in wrong:
        print(f"eventsync: {line}", file=sys.stderr)
    if command == "serve":
        threading.Thread(target=_follow, daemon=True).start()
        zensical("serve", "--dev-addr", _ADDRESS)
    elif wrong:
        sys.exit(1)
    else:
        zensical("build", "--strict", "--clean")


def zensical(*words: str) -> None:
    done = subprocess.run([Path(sys.executable).with_name("zensical"), *words, "-f", CONFIG], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def pages() -> list[Path]:
    folders = (ROOT / "docs", ROOT / "examples")
    return [*sorted(ROOT.glob("*.md")), *(page for folder in folders for page in sorted(folder.rglob("*.md")))]


def navigation_faults() -> Iterator[str]:
    """Name each page that the navigation lacks, and each of its entries that is no page: the generator ignores them."""
    with CONFIG.open("rb") as file:
        listed = list(_entries(tomllib.load(file)["project"]["nav"]))
    found = {str(page.relative_to(ROOT)) for page in pages()}
    yield from (f"{name}: not in the navigation of {CONFIG.name}" for name in sorted(found - {*listed}))
    yield from (f"{CONFIG.name}: {name} is no page" for name in listed if name not in found)


def _entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _entries(item)


def stage() -> Iterator[str]:
    """Copy the pages, and the files that they link to, where the generator finds them. Name each link to nothing."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for page in pages():
        _copy(page)
        for target in _LINK.findall(page.read_text()):
            if "://" in target:
                continue
            file = (page.parent / target).resolve()
            if file.is_file() and file.is_relative_to(ROOT):
                _copy(file)
            else:
                yield f"{page.relative_to(ROOT)} links to {target}, which is no file"


def _copy(file: Path) -> None:
    place = STAGE / file.relative_to(ROOT)
    if not place.exists() or place.stat().st_mtime < file.stat().st_mtime:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)


def _follow() -> None:
    """Copy pages that change, so that the generator shows them."""
    while not threading.Event().wait(0.5):
        for page in pages():
            _copy(page)


if __name__ == "__main__":
    main()
