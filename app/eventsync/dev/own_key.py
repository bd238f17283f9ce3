"""The service key of whoever runs `eventsync dev`: made as soon as rules with `[auth]` are in force, for the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from eventsync.domain.access.principal import OPERATOR
from eventsync.stores.access.keys import split
from eventsync.stores.stores import Credentials

_SUBJECT: Final = "dev"


class OwnKey:
    """A key of an operator, in a file that only the user may read. It is kept from run to run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def ensure(self, credentials: Credentials) -> str:
        """Return the key. Make another one if it was revoked or belongs to other data. Raises `Unavailable`."""
        text = self.file.read_text().strip() if self.file.is_file() else ""
        if (parts := split(text)) is not None:
            key = await credentials.keys.find(parts[0])
            if key is not None and key.revoked is None and key.is_proven_by(parts[1]):
                return text
        roles, claims = frozenset({OPERATOR}), {"sub": _SUBJECT}
        _, text = await credentials.keys.create("eventsync dev", roles=roles, claims=claims, expires=None)
        self.file.unlink(missing_ok=True)
        self.file.touch(mode=0o600)
        self.file.write_text(f"{text}\n")
        return text

    def hints(self, url: str, collection: str | None) -> list[str]:
        """Return the commands that use the key, none of which has its text: terminals keep what they have shown."""
        read = f"$(cat {json.dumps(str(self.file))})"
        path = "/v1/collections" if collection is None else f"/v1/collections/{collection}/documents"
        return [
            f'rules are in force: sign in to the page with the key in {self.file}, or open "{url}/#key={read}"',
            f'read    curl -H "Authorization: Bearer {read}" {url}{path}',
        ]
