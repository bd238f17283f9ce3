"""`eventsync token`: mints a token with the shared secret, for trying the rules."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
import typer

from eventsync.access.secret_file import read_secret
from eventsync.access.tokens import MAX_SUBJECT, MAX_TOKEN, mint
from eventsync.cli.options import Claims, Database, MongodbUri
from eventsync.domain.access.auth import AuthSettings, Issuer
from eventsync.domain.values.extended_json import parse_json
from eventsync.errors import ConfigurationError, Malformed
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

_OWN: Final = frozenset({"iss", "sub", "iat", "exp"})
"""Claims that the command sets itself."""


def token(
    sub: Annotated[str, typer.Option("--sub", help="The subject: the author of what is written.")],
    claims: Claims = "{}",
    expires_in: Annotated[float, typer.Option(help="Time until the token ends, in seconds.", min=1)] = 3600.0,
    issuer: Annotated[
        str | None, typer.Option(help="The issuer, if several have a secret.", show_default=False)
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Print a token, for trying the rules.

    It is signed with the shared secret of an issuer, its `secret_file`, which this command reads. Other issuers sign
    their tokens themselves.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    read = read_claims(claims)
    if given := sorted(_OWN & read.keys()):
        raise Malformed(f"--claims has {', '.join(given)}, which this command sets by itself")
    if not 0 < len(sub) <= MAX_SUBJECT or not sub.isprintable():
        raise Malformed(f"--sub takes 1 to {MAX_SUBJECT} printable characters")
    if expires_in > settings.token_lifetime:
        raise ConfigurationError(f"a token ends in at most {settings.token_lifetime:g} s (EVENTSYNC_TOKEN_LIFETIME)")
    chosen = choose(event_loop.run(_applied(settings)), issuer)
    secret = read_secret(str(chosen.secret_file))
    text = mint(chosen, secret, sub, read, now=time.time(), expires_in=expires_in)
    if len(text) > MAX_TOKEN:
        raise Malformed(f"the token would have over {MAX_TOKEN} characters: give fewer claims")
    typer.echo(text)


def read_claims(text: str) -> Mapping[str, Any]:
    """Return claims that were given as JSON. Raises `Malformed`."""
    try:
        tree = parse_json(text.encode())
    except Malformed as error:
        raise Malformed(f"--claims: {error.message.removeprefix('the body is ')}") from error
    if not isinstance(tree, dict):
        raise Malformed('--claims takes a JSON object, such as {"groups":["blue"]}')
    try:
        plain: dict[str, Any] = orjson.loads(text)
        orjson.dumps(plain)
    except (ValueError, TypeError) as error:
        raise Malformed(f"--claims can't be stored: {error}") from error
    return plain


async def _applied(settings: Settings) -> AuthSettings:
    """Return the `[auth]` that has been applied. Raises `ConfigurationError` if there is none."""
    async with connected(settings, "token") as client:
        rules = (await Stores.of(client, settings).definitions.read()).rules
    if rules is None:
        raise ConfigurationError("no [auth] has been applied: nobody needs a token (`eventsync rules apply`)")
    return rules.compiled().auth


def choose(auth: AuthSettings, name: str | None) -> Issuer:
    """Return the issuer with a shared secret. Raises `ConfigurationError` if that is not exactly one."""
    found = [issuer for issuer in auth.issuers if issuer.secret_file is not None and name in {None, issuer.iss}]
    if not found:
        raise ConfigurationError(
            "there is no shared secret to sign with: no issuer has a secret_file; ask the issuer itself for a token"
        )
    if len(found) > 1:
        raise ConfigurationError(f"--issuer takes one of {', '.join(issuer.iss for issuer in found)}")
    return found[0]
