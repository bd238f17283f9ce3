"""Checks of a run under rules: nothing leaks, and nothing that is allowed is refused or missing.

Several rules and several states may have been the ones that an answer was made by: all that were in force, or stored,
at some time between the request and the answer. An answer is wrong if it is wrong by each of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from support.chaos.evidence import Violation
from support.chaos.history import Key
from support.chaos.leaks.evidence import (
    CANARY,
    LEEWAY,
    Credential,
    DocumentState,
    Jump,
    LeakEvidence,
    Received,
    Sight,
    Write,
    revokes,
)

_REFUSED = frozenset({401, 403, 404})
_NEVER = float("inf")
_NOTHING = DocumentState(-1, ("", ""), 0.0, None)
"""That there is no document yet is a state, too."""


def check_leaks(evidence: LeakEvidence) -> list[Violation]:
    """Return everything that contradicts the rules."""
    return [*_Judge(evidence).check()]


class _Judge:
    """The evidence of one run."""

    def __init__(self, evidence: LeakEvidence) -> None:
        self._evidence = evidence
        self._of: dict[Key, list[DocumentState]] = defaultdict(lambda: [_NOTHING])
        for state in evidence.states:
            self._of[state.key].append(state)
        self._marked: dict[str, DocumentState] = {}
        for state in evidence.states:
            for found in CANARY.findall(str(state.document)):
                self._marked.setdefault(found, state)

    def check(self) -> Iterator[Violation]:
        for item in self._evidence.received:
            credential = self._evidence.credentials[item.credential]
            yield from self._seen(item, credential)
            yield from self._silence(item, credential)
            yield from self._refusal(item, credential)
            yield from self._attack(item, credential)
            for write in item.writes:
                if write.status < 300 and not write.repeated:
                    yield from self._write(item, write, credential)
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

    def _sights(self, credential: Credential, item: Received) -> list[Sight]:
        """Return what was allowed by the rules that the server may have obeyed when it made this."""
        obeyed = self._evidence.known.obeyed.get(item.server, ())
        first = _since(obeyed, item.began)
        # The server obeyed these rules or later ones, and no server obeys rules before they are applied.
        variants = {rules.variant for rules in self._evidence.rules[first or 0 :] if rules.began <= item.at}
        return [self._evidence.sights.get((variant, credential.sight), Sight()) for variant in sorted(variants)]

    def _states(self, key: Key, item: Received) -> Sequence[DocumentState]:
        """Return the states of a document that the server may have found when it made this."""
        states = self._of[key]
        committed = _since(self._evidence.known.committed, item.began) or 0
        first = bisect_right(states, committed, key=lambda state: state.time) - 1
        return states[max(0, first) : bisect_right(states, item.at, key=lambda state: state.at)]

    # --- leaks ----------------------------------------------------------------------------------------------------

    def _seen(self, item: Received, credential: Credential) -> Iterator[Violation]:
        found = item.canaries - self._evidence.written.get(credential.sub, frozenset())
        if not found:
            return
        sights = self._sights(credential, item)
        if leaked := sorted(found.difference(*(sight.canaries for sight in sights))):
            origin = self._marked.get(leaked[0])
            where = f"{'/'.join(origin.key)}: {origin.document}" if origin else "no state has it"
            text = f"{credential.sight} was sent {leaked[0]}, which it was never allowed to see ({item.what})"
            yield Violation("leak", text, (str(item), where, _around(item.content, leaked[0])))
        elif item.document is not None and item.act == "read":
            states = self._states(item.document, item)
            if not any(_shows(sight, state) for state in states for sight in sights):
                text = f"{credential.sight} was sent {'/'.join(item.document)}, which it may not read now ({item.what})"
                yield Violation("leak", text, (str(item), item.content[:300]))

    def _silence(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if not item.canaries:
            return
        revoked = self._evidence.known.revoked.get((credential.name, item.server), _NEVER)
        ahead = [jump.seconds for jump in self._jumps(item)]
        expires = credential.expires + LEEWAY - min(0.0, *ahead, 0.0)
        if (late := item.sent - min(revoked, expires)) > 0:
            why = "it was revoked" if revoked < expires else "it had expired"
            text = f"{credential.name} was sent content {late:.1f} s after {why} ({item.what})"
            yield Violation("silence", text, (str(item), item.content[:300]))

    def _jumps(self, item: Received) -> list[Jump]:
        return [
            jump
            for jump in self._evidence.jumps
            if jump.server == item.server and jump.began <= item.at and item.sent <= jump.ended
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
        for item in self._evidence.received:
            sub = self._evidence.credentials[item.credential].sub
            # The first one may have been lost, or may have begun later and been faster.
            used = [began for began in self._evidence.used.get((sub, item.key), ()) if began <= item.at]
            if item.key and '"repeated":true' in item.content and len(used) < 2:
                text = f"{sub} was given the answer to a request of another subject"
                yield Violation("permission", text, (str(item), item.content[:300]))

    def _attack(self, item: Received, credential: Credential) -> Iterator[Violation]:
        is_done = item.act == "attack" and item.status < 400
        if is_done and not any(sight.unlimited for sight in self._sights(credential, item)):
            text = f"{credential.sight} did what no user may do ({item.what})"
            yield Violation("permission", text, (str(item), item.content[-300:]))

    # --- writes ---------------------------------------------------------------------------------------------------

    def _write(self, item: Received, write: Write, credential: Credential) -> Iterator[Violation]:
        pairs, where = self._pairs(item, write, credential), "/".join(write.document)
        if not pairs:
            # Where it was so already, it has changed nothing.
            if write.mark and any(write.mark in str(state.document) for state in self._states(write.document, item)):
                return
            text = f"{credential.sight} was answered a {write.act} of {where} that no commit has made ({item.what})"
            yield Violation("survival", text, (str(item), item.content[-300:]))
            return
        sights = self._sights(credential, item)
        faults = [_fault(sights, before, after) for before, after in pairs]
        if all(faults):
            before, after = pairs[0]
            witness = (str(item), f"before: {before.document}", f"after: {after.document}")
            yield Violation("permission", f"{credential.sight} {faults[0]} of {where}", witness)

    def _pairs(self, item: Received, write: Write, credential: Credential) -> list[tuple[DocumentState, DocumentState]]:
        """Return the states before and after a write: those that its filter held, and that it has made.

        There are several only if a subject has made the same version of a document twice meanwhile, by deleting it.
        """
        states = self._of[write.document]
        return [
            (before, after)
            for before, after in pairwise(states)
            if (after.by, after.version) == (credential.sub, write.version)
            and (_since(self._evidence.known.committed, item.began) or 0) < after.time
            and after.at <= item.at
            and (after.document is None if write.act == "delete" else write.mark in str(after.document))
        ]

    # --- what is allowed ------------------------------------------------------------------------------------------

    def _refusal(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if item.act == "attack":
            return
        if item.status == 401 and not self._is_doubtful(item):
            yield Violation("allowed", f"{credential.name} was not authenticated ({item.what})", (str(item),))
        elif item.status in {403, 404} and item.document is not None and item.act == "read":
            sights, states = self._sights(credential, item), self._states(item.document, item)
            if all(state.number in sight.states for sight in sights for state in states):
                text = f"{credential.sight} was refused {'/'.join(item.document)}, which it may read ({item.what})"
                yield Violation("allowed", text, (str(item), item.content[-300:], str(states[0].document)))
        elif (
            item.status in {403, 404}
            and item.collection
            and all(item.collection in sight.collections for sight in self._sights(credential, item))
        ):
            text = f"{credential.sight} was refused what it may read of {item.collection} ({item.what})"
            yield Violation("allowed", text, (str(item), item.content[-300:]))
        yield from self._refused_writes(item, credential)

    def _refused_writes(self, item: Received, credential: Credential) -> Iterator[Violation]:
        if not item.writes:
            return
        sights = self._sights(credential, item)
        # Of a transaction, one write that is refused is enough.
        groups = [item.writes] if item.status in _REFUSED else [(write,) for write in item.writes]
        for group in groups:
            if not all(
                write.status in {403, 404} and _allows(sight, state, write)
                for write in group
                for sight in sights
                for state in self._states(write.document, item)
            ):
                continue
            write = group[0]
            text = f"{credential.sight} was refused {'/'.join(write.document)}, which it may {write.act} ({item.what})"
            states = [str(state.document) for state in self._states(write.document, item)]
            yield Violation("allowed", text, (str(item), item.content[-300:], *states[:3]))

    def _is_doubtful(self, item: Received) -> bool:
        """Return True if a credential of the request may have been refused for its own sake."""
        for name in filter(None, (item.credential, item.other)):
            credential = self._evidence.credentials[name]
            revoked = [r.began for r in self._evidence.revocations if revokes(r, credential)]
            if item.at >= min(credential.expires + LEEWAY, *revoked, _NEVER):
                return True
        return bool(self._jumps(item))


def _since(known: Sequence[tuple[float, int]], at: float) -> int | None:
    """Return what was known at a time, or None for nothing."""
    count = bisect_right(known, at, key=lambda pair: pair[0])
    return known[count - 1][1] if count else None


def _fault(sights: Sequence[Sight], before: DocumentState, after: DocumentState) -> str:
    """Return what was wrong with a write, or nothing if one of these allows it."""
    states = [state for state in (before, after) if state.document is not None]
    act = "delete" if after.document is None else "create" if len(states) == 1 else "update"
    allowing = [sight for sight in sights if all(state.number in sight.may.get(act, frozenset()) for state in states)]
    if not allowing:
        return f"made a {act} that no rule allows"
    if act == "delete" or any(_keeps(sight, states, after) for sight in allowing):
        return ""
    return "changed hidden or fixed fields"


def _keeps(sight: Sight, states: Sequence[DocumentState], after: DocumentState) -> bool:
    """Return True if a write has left all as it was that is hidden or fixed."""
    before = states[0].number if len(states) == 2 else -1
    is_hidden = sight.hidden.get(before, "") != sight.hidden.get(after.number, "")
    is_fixed = len(states) == 2 and sight.fixed.get(before, "") != sight.fixed.get(after.number, "")
    return not is_hidden and not is_fixed


def _shows(sight: Sight, state: DocumentState) -> bool:
    """Return True if a state, or the past of a document that is deleted, may be read."""
    return state.number in sight.states or (state.document is None and state.key[0] in sight.whole)


def _allows(sight: Sight, state: DocumentState, write: Write) -> bool:
    """Return True if a write is certainly allowed."""
    is_closed = write.document[0] in sight.closed
    return (
        write.act == "update"
        and write.neutral
        and not is_closed
        and state.number in sight.may.get("update", frozenset())
    )


def _around(content: str, text: str) -> str:
    at = content.find(text)
    return content[max(0, at - 200) : at + 100]
