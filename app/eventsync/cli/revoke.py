"""`eventsync revoke`: revokes a subject, a token or a service key."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from eventsync.access.tokens import LEEWAY, MAX_SUBJECT, Token
from eventsync.cli.keys import revoke_key
from eventsync.cli.options import Database, MongodbUri
from eventsync.errors import Malformed, Unauthenticated
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.access import keys, tickets
from eventsync.stores.access.revocations import of_subject
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def revoke(
    sub: Annotated[
        str | None,
        typer.Option(
            "--sub",
            help="All tokens of a subject, and keys, issued until now. New tokens are accepted after some 10 s.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="A token, or the `jti` of one.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="A service key, or the id of one.", show_default=False)
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Revoke a subject, a token or a service key. All servers obey within a moment, and close its connections."""
    given = [option for option in (sub, token, key) if option]
    if len(given) != 1:
        raise Malformed("give one of --sub, --token and --key")
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    typer.echo(f"revoked: {event_loop.run(_revoke(settings, sub, token, key))}")


async def _revoke(settings: Settings, sub: str | None, token: str | None, key: str | None) -> str:
    async with connected(settings, "revoke") as client:
        credentials = Stores.of(client, settings).credentials
        if key:
            return await revoke_key(credentials, settings, key)
        name, kept = (
            of_token(token, settings.token_lifetime) if token else (of_subject(_subject(sub)), settings.token_lifetime)
        )
        # The issuer's clock may be ahead of MongoDB's, and MongoDB's ahead of a server's, which accepts for longer.
        await credentials.revocations.add(name, kept + 3 * LEEWAY)
    return name


def of_token(text: str, lifetime: float) -> tuple[str, float]:
    """Return the name of the revocation of a token or a `jti`, and the seconds for which it has to be kept."""
    try:
        parsed = Token.parse(text)
    except Unauthenticated as error:
        # A secret would be stored, and stay good. A part of a token begins so, too: it is the Base64 of `{"`.
        if len(text) > MAX_SUBJECT or any(begin in text for begin in (keys.PREFIX, tickets.PREFIX, "eyJ")):
            raise Malformed("--token takes a whole token, or the `jti` of one; a service key is --key ID") from error
        return f"jti:{text}", lifetime
    expires = parsed.claims.get("exp")
    if isinstance(expires, int | float) and not isinstance(expires, bool):
        return parsed.id, min(lifetime, max(0.0, expires - time.time()))
    return parsed.id, lifetime


def _subject(sub: str | None) -> str:
    if not sub or len(sub) > MAX_SUBJECT:
        raise Malformed(f"a subject has 1 to {MAX_SUBJECT} characters")
    return sub
