"""Eventsync's use of the deployment: its users, the tracked collections, the stored formats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from eventsync.doctor.findings import Finding, Patient, ok
from eventsync.domain.access.auth import is_loopback
from eventsync.errors import IncompatibleFormat
from eventsync.mongodb.errors import translated
from eventsync.mongodb.privileges import missing

_ROLES = "docs/guides/mongodb-roles.md has the roles to give"


async def users(patient: Patient) -> AsyncIterator[Finding]:
    """Check that there is a user, and that it may do what the processes of each role need."""
    status = await patient.ask("admin", {"connectionStatus": 1}) or {}
    if not (names := status.get("authInfo", {}).get("authenticatedUsers")):
        if all(is_loopback(host) for host, _ in patient.client.nodes):
            yield ok("user", "none; MongoDB is on loopback")
        else:
            yield Finding(
                "user",
                "problem",
                "MongoDB asks for no user",
                "whoever reaches it can read and change everything",
                f"start mongod with --auth and a key file, and make users; {_ROLES}",
            )
        return
    for role in patient.roles:
        with translated("the privileges of the MongoDB user can't be read"):
            lacking = await missing(patient.client, patient.settings, role)
        required, optional = ([str(item) for item in lacking if bool(item.without) is kind] for kind in (False, True))
        who = f"{names[0]['user']}, as {role}"
        if required:
            meaning = f"`eventsync {role}` does not start with this user"
            yield Finding("user", "problem", f"{who}: lacks {', '.join(required)}", meaning, _ROLES)
        elif optional:
            meaning = "a part of what it offers is missing"
            yield Finding("user", "warning", f"{who}: lacks {', '.join(optional)}", meaning, _ROLES)
        else:
            yield ok("user", f"{who}: has what it needs")


async def formats(patient: Patient) -> AsyncIterator[Finding]:
    """Check that this version of eventsync knows what is stored."""
    try:
        steps = await patient.stores.formats.pending()
    except IncompatibleFormat as error:
        meaning = "servers, workers and commands of this version refuse to start (exit code 65)"
        yield Finding("formats", "problem", error.message, meaning, "use the version that is named, or a later one")
        return
    if steps:
        found = f"to be migrated: {', '.join(step.name for step in steps)}"
        meaning = "this version still writes what earlier ones read"
        remedy = "when no earlier version runs any more: eventsync migrate (docs/guides/upgrading.md)"
        yield Finding("formats", "warning", found, meaning, remedy)
    else:
        yield ok("formats", "what is stored has the formats of this version")


async def collections(patient: Patient) -> AsyncIterator[Finding]:
    """Check that each tracked collection is one that can be tracked, with pre- and post-images."""
    registered = await patient.stores.tracking.read()
    active = {item.name for item in registered if item.log is not None}
    names = sorted({*patient.settings.collections, *(item.name for item in registered)})
    if not names:
        yield Finding(
            "collections",
            "warning",
            "none is tracked",
            "no change is recorded or delivered",
            "eventsync track NAME",
        )
        return
    with translated("the collections can't be listed"):
        cursor = await patient.stores.data.list_collections(filter={"name": {"$in": names}})
        existing = {item["name"]: item async for item in cursor}
    enabling = set() if not patient.settings.images else set(names) - active
    findings = [_collection(name, existing.get(name), will_have=name in enabling) for name in names]
    fine = [finding.found for finding in findings if finding.level == "ok"]
    if fine:
        yield ok("collections", f"{len(fine)} of {len(names)} tracked ones have images, or will have them")
    for finding in findings:
        if finding.level != "ok":
            yield finding


def _collection(name: str, entry: Mapping[str, Any] | None, *, will_have: bool) -> Finding:
    check = f"collection {name}"
    options: Mapping[str, Any] = entry["options"] if entry else {}
    kind = "capped" if options.get("capped") else entry["type"] if entry else "collection"
    if kind != "collection":
        kinds = {"view": "a view", "timeseries": "a time-series collection", "capped": "a capped collection"}
        meaning = "MongoDB has no exact changes of it: it is refused, and all others continue"
        return Finding(check, "problem", kinds.get(kind, str(kind)), meaning, f"eventsync untrack {name}")
    if options.get("changeStreamPreAndPostImages", {}).get("enabled"):
        return ok(check, "has images")
    if will_have:
        return ok(check, "the worker that begins to track it enables its images")
    return Finding(
        check,
        "problem",
        "has no pre- and post-images",
        "its changes become `replace` events, without a patch, whose states may be later ones",
        f'db.runCommand({{collMod: "{name}", changeStreamPreAndPostImages: {{enabled: true}}}})',
    )
