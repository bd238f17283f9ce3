"""The first commands to try, ready to be copied."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventsync.dev.demo_data import COLLECTION, first_id


def lines(url: str, collections: Sequence[str], directory: Path, *, demo: bool) -> Iterator[str]:
    """Return the lines with the commands, for another terminal."""
    name = collections[0] if collections else None
    yield f"open    {url}/"
    if name is None:
        yield f"track   {_command(directory)} track COLLECTION"
        return
    yield f"follow  curl -N '{url}/v1/sync/sse?shape={name}'"
    if demo:
        yield (
            "write   curl -X PATCH -H 'Content-Type: application/merge-patch+json' "
            f"""-d '{{"location": {{"address": {{"city": "Springfield"}}}}}}' """
            f"{url}/v1/collections/{COLLECTION}/documents/{first_id()}"
        )
    yield f"watch   {_command(directory)} tail {name}"


def _command(directory: Path) -> str:
    """Return how to call `eventsync` from the current directory, so that it finds this `dev`."""
    where = "" if directory == Path.cwd() / ".eventsync" else f"EVENTSYNC_CONFIG={directory}/eventsync.toml "
    script = Path(sys.executable).parent / "eventsync"
    known = shutil.which("eventsync") or not script.is_file()
    return f"{where}{'eventsync' if known else script}"
