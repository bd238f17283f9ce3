"""`eventsync keys`: creates, lists and revokes service keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from eventsync.access.tokens import MAX_SUBJECT
from eventsync.cli.console import NOTES, print_json, print_table
from eventsync.cli.options import Claims, Database, Json, MongodbUri
from eventsync.cli.token import read_claims
from eventsync.domain.events import timestamp
from eventsync.errors import Malformed, NotFound
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.access.keys import ServiceKey, split
from eventsync.stores.access.revocations import of_key
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Credentials, Stores

keys = typer.Typer(
    name="keys",
    help="Create, list and revoke the service keys of programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for people. The key's subject is `key:NAME`.")],
    roles: Annotated[str, typer.Option(help="Roles of the rules, comma separated.", metavar="A,B")] = "",
    claims: Claims = "{}",
    expires_in: Annotated[
        float | None, typer.Option(help="Time until the key ends, in seconds.", min=1, show_default="no end")
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Create a service key and print it. It is stored as a hash, and never shown again."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    if not 0 < len(name) <= MAX_SUBJECT - 4 or not name.isprintable():
        raise Malformed(f"a name has 1 to {MAX_SUBJECT - 4} printable characters")
    sub = (read := read_claims(claims)).get("sub", f"key:{name}")
    if not isinstance(sub, str) or not 0 < len(sub) <= MAX_SUBJECT or not sub.isprintable():
        raise Malformed(f"the claim sub has 1 to {MAX_SUBJECT} printable characters")
    given = frozenset(role.strip() for role in roles.split(",") if role.strip())
    expires = None if expires_in is None else datetime.now(UTC) + timedelta(seconds=expires_in)

    has_rules, text = event_loop.run(_create(settings, name, given, read, expires))
    typer.echo(text)
    if given and not has_rules:
        NOTES.print("no [auth] has been applied: these roles mean nothing yet", style="yellow", markup=False)
    if not given:
        NOTES.print("the key has no roles of its own: it may do what [roles] gives to its claims", style="yellow")


async def _create(
    settings: Settings, name: str, roles: frozenset[str], claims: Mapping[str, Any], expires: datetime | None
) -> tuple[bool, str]:
    """Store a key. Return its text, and True before it if there are rules. Raises `Malformed` for unknown roles."""
    async with connected(settings, "keys") as client:
        stores = Stores.of(client, settings)
        stored = (await stores.definitions.read()).rules
        if stored is not None and (unknown := roles - (known := stored.compiled().role_names)):
            raise Malformed(
                f"no rule is for the role {', '.join(map(repr, sorted(unknown)))}: there are {', '.join(sorted(known))}"
                " (`eventsync rules apply` first)"
            )
        key = await stores.credentials.keys.create(name, roles=roles, claims=claims, expires=expires)
        return stored is not None, key[1]


@keys.command("list")
def list_(mongodb_uri: MongodbUri = None, database: Database = None, as_json: Json = False) -> None:
    """List the service keys, without their secrets."""

    async def run(credentials: Credentials) -> list[ServiceKey]:
        return list(await credentials.keys.read())

    found = event_loop.run(_with(load_settings(mongodb_uri=mongodb_uri, database=database), run))
    if as_json:
        print_json([_tree(key) for key in found])
        return
    rows = [
        [key.id, key.name, ",".join(sorted(key.roles)), timestamp(key.created), _time(key.expires), _time(key.revoked)]
        for key in found
    ]
    print_table(["id", "name", "roles", "created", "expires", "revoked"], rows)


@keys.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The id of a key, as `list` shows it, or the whole key.")],
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Revoke a service key. All servers refuse it, and close its connections, within a moment."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    revoked = event_loop.run(_with(settings, lambda credentials: revoke_key(credentials, settings, id_)))
    typer.echo(f"revoked: {revoked}")


async def revoke_key(credentials: Credentials, settings: Settings, key: str) -> str:
    """Revoke a service key by its id or its text, and close its connections. Return its name. Raises `NotFound`."""
    # The text has a secret, which belongs into no message.
    id_, _ = split(key) or (key, "")
    # First the key itself: that lasts as long as the key does, even if this command ends in between.
    if not await credentials.keys.revoke(id_):
        raise NotFound(f"there is no service key {id_[:64]!r}")
    await credentials.revocations.add(of_key(id_), settings.token_lifetime)
    return f"the service key {id_}"


async def _with(settings: Settings, run: Any) -> Any:
    async with connected(settings, "keys") as client:
        return await run(Stores.of(client, settings).credentials)


def _time(value: datetime | None) -> str:
    return "" if value is None else timestamp(value)


def _tree(key: ServiceKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "roles": sorted(key.roles),
        "claims": dict(key.claims),
        "created": timestamp(key.created),
        "expires": _time(key.expires) or None,
        "revoked": _time(key.revoked) or None,
    }
