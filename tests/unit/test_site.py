"""The site of the documentation: its navigation, and the pages that are made from the code."""

from __future__ import annotations

import pytest

from scripts import _docs, _pages


@pytest.mark.parametrize("name", _pages.PAGES)
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (_pages.REFERENCE / name).read_text() == _pages.PAGES[name](), "run `scripts/docs pages`"


def test_each_page_is_in_the_navigation() -> None:
    assert not list(_docs.navigation_faults())
