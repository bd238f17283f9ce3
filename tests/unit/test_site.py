"""The site of the documentation: its navigation, and the pages that are made from the code."""

from __future__ import annotations

import pytest

from scripts import _docs, _javascript_pages, _pages


@pytest.mark.parametrize("name", _pages.PAGES)
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (_pages.REFERENCE / name).read_text() == _pages.PAGES[name](), "run `scripts/docs pages`"


def test_each_page_is_in_the_navigation() -> None:
    assert not list(_docs.navigation_faults())


def test_each_export_of_the_javascript_client_has_a_text() -> None:
    assert not _javascript_pages.undocumented()


def test_the_page_of_the_javascript_client_has_each_entry_point_and_nothing_internal() -> None:
    page = _javascript_pages.javascript_client()
    for name in ("", "/store", "/idb", "/decode", "/react", "/tanstack-db"):
        assert f"\n## eventsync{name}\n" in page
    assert "    patch(id: string, patch: Patch<Doc>, options?: WriteOptions): Promise<Written>\n" in page
    assert "statusChanged" not in page
    assert "@" not in page
