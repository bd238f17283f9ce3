from __future__ import annotations

import pytest

from app.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Idle reads of the stream wait for shorter: a test often waits for the checkpoint behind one."""
    return settings.model_copy(update={"stream_wait": 0.05})
