"""Checks of a run under rules: nothing leaks, and nothing that is allowed is refused or missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from support.chaos.evidence import Violation
from support.chaos.history import Key
from support.chaos.leaks.evidence import (
    LEEWAY,
    AppliedRules,
    Credential,
    DocumentState,
    Jump,
    LeakEvidence,
    Received,
    Sight,
)

_REFUSED = frozenset({401, 403, 404})
_WRITES = frozenset({"create", "update", "delete"})
_COMMITTED = 0.2
"""Seconds that the time of a commit, which MongoDB's clock has, may be beside that of the clients."""


def check_leaks(evidence: LeakEvidence) -> list[Violation]:
    """Return everything that contradicts the rules."""
    return [*_Judge(evidence).check()]


class _Judge:
    """The evidence of one run."""

    def __init__(self, evidence: LeakEvidence) -> None:
        self._evidence = evidence
        self._grace = evidence.grace
        self._of: dict[Key, list[DocumentState]] = defaultdict(list)
        for state in evidence.states:
            self._of[state.key].append(state)
        self._marked: dict[str, DocumentState] = {}
        for state in evidence.states:
            for found in Received("", "", "", str(state.document), 0, 0).canaries:
                self._marked.setdefault(found, state)

    def check(self) -> Iterator[Violation]:
        for item in self._evidence.received:
            credential = self._evidence.credentials[item.credential]
            yield from self._seen(item, credential)
            yield from self._silence(item, credential)
            yield from self._refusal(item, credential)
            yield from self._attack(item, credential)
            if item.act in _WRITES and item.status < 300 and '"repeated":true' not in item.content:
                yield from self._write(item, credential)
        yield from self._tags()
        yield from self._repeats()
        for held in self._evidence.held:
            for key in sorted(held.held.keys() | held.right.keys()):
                if held.held.get(key) != held.right.get(key):
                    witness = (f"held:  {held.held.get(key)}", f"right: {held.right.get(key)}")
                    text = f"{held.client} ends with a state that differs from what MongoDB finds in {key}"
                    yield Violation("allowed", text, witness)
                    break

    # --- what is in force ----------------------------------------------------------------------------------------

    def _in_force(self, began: float, ended: float) -> list[int]:
        """Return the variants of the rules that may have been in force at any time between these."""
        rules: Sequence[AppliedRules] = self._evidence.rules
        ends = [*(item.done for item in rules[1:]), float("inf")]
        return [item.variant for item, end in zip(rules, ends, strict=True) if item.began <= ended and began <= end]

    def _sights(self, credential: Credential, began: float, ended: float) -> list[Sight]:
        variants = self._in_force(began, ended)
        return [self._evidence.sights.get((variant, credential.sight), Sight()) for variant in variants]

    def _states(self, key: Key, began: float, ended: float) -> list[DocumentState]:
        """Return the states that a document had at any time between these."""
        states = self._of[key]
        ends = [*(state.at for state in states[1:]), float("inf")]
        return [state for state, end in zip(states, ends, strict=True) if state.at <= ended and began <= end]

    # --- leaks ----------------------------------------------------------------------------------------------------

    def _seen(self, item: Received, credential: Credential) -> Iterator[Violation]:
        found = item.canaries - self._evidence.known.get(credential.sub, frozenset())
        if not found:
            return
        sights = self._sights(credential, item.began - self._grace, item.at)
        if leaked := sorted(found.difference(*(sight.canaries for sight in sights))):
            origin = self._marked.get(leaked[0])
            where = f"{'/'.join(origin.key)}: {origin.document}" if origin else "no state has it"
            text = f"{credential.sight} was sent {leaked[0]}, which it was never allowed to see ({item.what})"
            yield Violation("leak", text, (str(item), where, _around(item.content, leaked[0])))
        elif item.document is not None and item.act == "read":
            states = self._states(item.document, item.began - self._grace, item.at)
            if not any(state.number in sight.states for state in states for sight in sights):
                text = f"{credential.sight} was sent {'/'.join(item.document)}, which it may not read now ({item.what})"
                yield Violation("leak", text, (str(item), item.content[:300]))

    def _silence(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if not item.canaries:
            return
        revoked = self._evidence.revoked.get(credential.name, float("inf"))
        ahead = [jump.seconds for jump in self._jumps(item, before=self._grace)]
        expires = credential.expires + LEEWAY - min(0.0, *ahead, 0.0)
        if (late := item.at - min(revoked, expires)) > self._grace:
            why = "it was revoked" if revoked < expires else "it had expired"
            text = f"{credential.name} was sent content {late:.1f} s after {why} ({item.what})"
            yield Violation("silence", text, (str(item), item.content[:300]))

    def _jumps(self, item: Received, *, before: float) -> list[Jump]:
        return [
            jump
            for jump in self._evidence.jumps
            if jump.server == item.server and jump.began <= item.at and item.began <= jump.ended + before
        ]

    def _tags(self) -> Iterator[Violation]:
        """An entity tag is made of what is shown: the same document, as it is shown, has the same one."""
        tags: dict[tuple[Key, str], Received] = {}
        for item in self._evidence.received:
            if item.act != "read" or item.document is None or not item.tag or item.status != 200:
                continue
            first = tags.setdefault((item.document, item.content.rpartition("\n\n")[2]), item)
            if first.tag != item.tag:
                text = f"two entity tags for what is shown as the same: {first.tag} and {item.tag}, of {item.document}"
                yield Violation("leak", text, (str(first), str(item), item.content[:300]))

    def _repeats(self) -> Iterator[Violation]:
        """An answer is repeated to the subject alone that has made the request before."""
        used: dict[tuple[str, str], float] = {}
        for item in self._evidence.received:
            if item.key:
                sub = self._evidence.credentials[item.credential].sub
                used[sub, item.key] = min(item.began, used.get((sub, item.key), item.began))
        for item in self._evidence.received:
            sub = self._evidence.credentials[item.credential].sub
            if item.key and '"repeated":true' in item.content and used[sub, item.key] >= item.began:
                text = f"{sub} was given the answer to a request of another subject"
                yield Violation("permission", text, (str(item), item.content[:300]))

    def _attack(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if item.act == "attack" and item.status < 400:
            sights = self._sights(credential, item.began - self._grace, item.at)
            if not any(sight.unlimited for sight in sights):
                text = f"{credential.sight} did what no user may do ({item.what})"
                yield Violation("permission", text, (str(item), item.content[-300:]))

    # --- writes ---------------------------------------------------------------------------------------------------

    def _write(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if item.document is None or not self._evidence.sights:
            return
        sights = self._sights(credential, item.began - self._grace, item.at)
        pairs = self._pairs(item)
        faults = [_fault(sights, before, after) for before, after in pairs]
        if faults and all(faults):
            before, after = pairs[0]
            witness = (str(item), f"before: {before and before.document}", f"after: {after and after.document}")
            yield Violation("permission", f"{credential.sight} {faults[0]} of {'/'.join(item.document)}", witness)

    def _pairs(self, item: Received) -> list[tuple[DocumentState | None, DocumentState | None]]:
        """Return the states before and after a write; several where it is not known which of them is its own."""
        assert item.document is not None
        states: list[DocumentState | None] = [*self._of[item.document]]
        return [
            (before, None if after.document is None else after)
            for before, after in zip([None, *states], states, strict=False)
            if after is not None
            and item.began - _COMMITTED <= after.at <= item.at + _COMMITTED
            and (after.document is None if item.act == "delete" else item.mark in str(after.document))
        ]

    # --- what is allowed ------------------------------------------------------------------------------------------

    def _refusal(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if item.status not in _REFUSED or self._is_doubtful(item, credential):
            return
        sights = self._sights(credential, item.began - self._grace, item.at + _COMMITTED)
        if not sights:
            return
        if item.status == 401:
            yield Violation("allowed", f"{credential.name} was not authenticated ({item.what})", (str(item),))
        elif item.document is None:
            if item.collection and all(item.collection in sight.collections for sight in sights):
                text = f"{credential.sight} was refused what it may read of {item.collection} ({item.what})"
                yield Violation("allowed", text, (str(item), item.content[-300:]))
        else:
            states = self._states(item.document, item.began - self._grace, item.at + _COMMITTED)
            if states and all(_allows(sight, state, item) for sight in sights for state in states):
                what = f"{'/'.join(item.document)}, which it may {item.act}"
                text = f"{credential.sight} was refused {what} ({item.what})"
                yield Violation("allowed", text, (str(item), item.content[-300:], str(states[0].document)))

    def _is_doubtful(self, item: Received, credential: Credential) -> bool:
        """Return True if the credential may have been refused for its own sake."""
        ended = min(credential.expires + LEEWAY, self._evidence.revoked.get(credential.name, float("inf")))
        return item.at >= ended - self._grace or bool(self._jumps(item, before=2 * self._grace))


def _fault(sights: Sequence[Sight], before: DocumentState | None, after: DocumentState | None) -> str:
    """Return what was wrong with a write, or nothing if rules allow it."""
    states = [state for state in (before, after) if state is not None and state.document is not None]
    act = "delete" if after is None else "create" if len(states) == 1 else "update"
    allowing = [sight for sight in sights if all(state.number in sight.may.get(act, frozenset()) for state in states)]
    if not allowing:
        return f"made a {act} that no rule allows"
    kept = act != "update" or states[0].hidden == states[1].hidden or any(sight.unlimited for sight in allowing)
    return "" if kept else "changed hidden or fixed fields"


def _allows(sight: Sight, state: DocumentState, item: Received) -> bool:
    if item.act == "read":
        return state.number in sight.states
    return item.act == "update" and item.neutral and state.number in sight.may.get("update", frozenset())


def _around(content: str, text: str) -> str:
    at = content.find(text)
    return content[max(0, at - 200) : at + 100]
