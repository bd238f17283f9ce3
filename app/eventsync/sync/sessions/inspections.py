"""The inspections of a server's sessions: how many there may be, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from eventsync.errors import RateLimited
from eventsync.sync.live.window import Window
from eventsync.sync.sessions.inspection import Inspection, LeftOut
from eventsync.sync.sessions.sessions import Sessions

MAX_INSPECTIONS: Final = 8
"""Most sessions of a server that are inspected at a time."""

LAPSES_AFTER: Final = 15.0
"""Seconds after the last request at which an inspection ends."""

MAX_SECONDS: Final = 900.0
"""Seconds after which an inspection ends, however often it is asked for."""

_NOTHING: Final[Mapping[str, Any]] = {
    "next": 0,
    "missed": 0,
    "left_out": asdict(LeftOut()),
    "shapes": [],
    "frames": [],
}
STARTING: Final = {"state": "starting", **_NOTHING}
"""The notes of another server that has not begun yet."""

_REFUSED: Final = {"state": "refused", **_NOTHING}


@dataclass(slots=True)
class _Held:
    """An inspection, the timer that ends it, and whether other servers ask for it."""

    inspection: Inspection
    timer: asyncio.TimerHandle
    is_for_others: bool = False


class Inspections:
    """Begins an inspection when it is first asked for, and ends it when nobody asks any more."""

    def __init__(self, sessions: Sessions, window: Window) -> None:
        self._sessions = sessions
        self._window = window
        self._held: dict[str, _Held] = {}
        self._refused: set[str] = set()
        """Sessions that other servers ask for, and that were one too many."""

    @property
    def for_others(self) -> bool:
        """True while other servers inspect sessions of this one."""
        return bool(self._refused) or any(held.is_for_others for held in self._held.values())

    def keep(self, session_id: str) -> Inspection | None:
        """Begin or continue an inspection; None if the session is not open here. Raises `RateLimited`."""
        held = self._kept(session_id)
        return None if held is None else held.inspection

    def keep_for_others(self, session_id: str) -> None:
        """Begin or continue an inspection that another server asks for."""
        try:
            held = self._kept(session_id)
        except RateLimited:
            self._refused.add(session_id)
            return
        if held is not None:
            held.is_for_others = True

    async def notes_for_others(self) -> dict[str, dict[str, Any]]:
        """Return all notes of the inspections that other servers have asked for, by session."""
        refused, self._refused = self._refused, set()
        notes: dict[str, dict[str, Any]] = dict.fromkeys(refused, _REFUSED)
        for session_id, held in list(self._held.items()):
            if held.is_for_others:
                notes[session_id] = await held.inspection.tree()
        return notes

    def _kept(self, session_id: str) -> _Held | None:
        held = self._held.get(session_id)
        if held is None:
            return self._begun(session_id)
        # Of one that is over, the notes stay a while; then another one may begin.
        if not held.inspection.has_ended:
            held.timer.cancel()
            held.timer = self._timer(session_id)
            if time.time() - held.inspection.began > MAX_SECONDS:
                held.inspection.close()
        return held

    def _begun(self, session_id: str) -> _Held | None:
        session = self._sessions.find(session_id)
        if session is None:
            return None
        if len(self._held) >= MAX_INSPECTIONS:
            raise RateLimited(f"this server inspects {MAX_INSPECTIONS} sessions already; wait until one is left alone")
        inspection = Inspection(session, self._window)
        inspection.begin()
        held = self._held[session_id] = _Held(inspection, self._timer(session_id))
        return held

    def _timer(self, session_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(LAPSES_AFTER, self._lapse, session_id)

    def _lapse(self, session_id: str) -> None:
        self._held.pop(session_id).inspection.close()


def notes_after(notes: Mapping[str, Any] | None, after: int) -> dict[str, Any]:
    """Return the notes of another server after one of them, in the form of `Inspection.tree`."""
    if notes is None:
        return dict(STARTING)
    after = after if after <= notes["next"] else 0
    frames = [frame for frame in notes["frames"] if frame["n"] > after]
    return {**notes, "frames": frames, "missed": notes["next"] - after - len(frames)}
