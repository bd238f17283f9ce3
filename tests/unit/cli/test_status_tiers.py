from __future__ import annotations

import pytest

from eventsync.cli.status_tiers import archive_kind
from eventsync.settings import Settings


@pytest.mark.parametrize(
    ("url", "kind"), [("", "none"), ("none", "none"), ("s3://b/c", "s3"), ("file:///a", "directory")]
)
def test_archive_kind_hides_the_rest_of_the_url(url: str, kind: str) -> None:
    assert archive_kind(Settings(archive_url=url)) == kind
