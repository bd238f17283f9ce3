"""Pages of other origins in a real browser."""

from __future__ import annotations

import pytest

from support.peers import chromium as browser
from support.peers.chromium import Chromium
from support.peers.javascript import Inbox
from support.peers.peer import Ended
from support.peers.served import Served
from support.systems import running_server, tracked
from support.waiting import within

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=browser.missing() or "")


async def _ending(chromium: Chromium, page: str, server: str) -> Ended:
    """Return the end of a WebSocket that a page of one server opens to another."""

    async def unused(_: str) -> None:
        raise AssertionError

    inbox = Inbox(unused)
    number = chromium.links.add(inbox)
    asked = {"url": server, "shapes": ["orders"], "vector": {}}
    await chromium.do(page, "open", number, "websocket", asked)
    async with within(20):
        while await inbox.receive():
            continue
    chromium.links.forget(number)
    await chromium.do(page, "close", number)
    assert inbox.ended is not None
    return inbox.ended


async def test_foreign_page_is_closed_with_4403_and_a_reason(chromium: Chromium, served: Served) -> None:
    async with running_server(served.settings) as url:
        await tracked(url, ["orders"])
        ended = await _ending(chromium, served.url, url)
    assert ended.code == 4403
    assert served.url in ended.reason
