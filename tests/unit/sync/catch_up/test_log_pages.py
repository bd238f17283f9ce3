"""Pages of the log for HTTP clients."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.catch_up.log_pages import LogPages
from eventsync.sync.live.pages import Page, PageLimit

pytestmark = pytest.mark.anyio

LOG, SHAPE = LogId("k3f9ab2c"), Shape("orders")


class Behind:
    """A store behind the window, with one event. `reads`: the limits of the pages that were read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    async def page(self, _log: LogId, _shape: Shape, _cursor: Seq, _head: Seq, limit: PageLimit) -> Page:
        self.reads.append(limit.events)
        await asyncio.sleep(0)
        return Page([Seq(1)], [b'{"seq":1}'], full=False)


async def test_concurrent_identical_pages_are_read_once() -> None:
    behind = Behind()
    window = SimpleNamespace(head=Seq(5), covers=lambda *_: False)
    source = SimpleNamespace(behind=behind, window=window, log=lambda: LOG, limit=PageLimit(100, 1000))
    nothing = cast("Any", None)
    pages, position = LogPages(cast("Any", source), nothing, nothing, nothing), Position(LOG, Seq(0))
    found = await asyncio.gather(*(pages._read_page(SHAPE, position, limit) for limit in (10, 10, 20, 10)))
    assert sorted(behind.reads) == [10, 20]
    assert {b"".join(page.parts) for page in found} == {
        b'{"shape":"orders","from":"k3f9ab2c:0","to":"k3f9ab2c:5","events":[{"seq":1}],"live":true}'
    }
