"""The service key of `eventsync dev`, and what `dev` asks of a server under rules."""

from __future__ import annotations

import stat
from pathlib import Path

from eventsync.dev.data_dir import OwnKey
from eventsync.stores.access.keys import split
from eventsync.stores.stores import Stores


async def test_key_is_private_kept_and_replaced_once_revoked(stores: Stores, tmp_path: Path) -> None:
    own = OwnKey(tmp_path / "key")
    text = await own.ensure(stores.credentials)
    assert stat.S_IMODE(own.file.stat().st_mode) == 0o600
    assert await OwnKey(own.file).ensure(stores.credentials) == text
    (key,) = await stores.credentials.keys.read()
    assert key.roles == {"operator"}
    assert text not in "".join(own.hints("http://127.0.0.1:8000", "orders"))
    await stores.credentials.keys.revoke((split(text) or ("", ""))[0])
    other = await own.ensure(stores.credentials)
    assert other not in {text, ""}
    assert own.file.read_text().strip() == other
