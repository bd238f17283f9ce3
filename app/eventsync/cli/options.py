"""Options that several commands share. An option that is not given comes from the environment or the file."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsync.domain.shapes import Shape
from eventsync.errors import ConfigurationError, Malformed
from eventsync.settings import TOKEN

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1", metavar="ADDRESS")]
Port = Annotated[
    int | None,
    typer.Option(help="TCP port to listen on; 0 takes a free one.", show_default="8000", metavar="PORT"),
]
MongodbUri = Annotated[
    str | None,
    typer.Option(
        "--mongodb-uri", help="MongoDB connection string of a replica set.", show_default=False, metavar="URI"
    ),
]
Database = Annotated[
    str | None, typer.Option(help="Database with the tracked collections.", show_default="app", metavar="NAME")
]
Collections = Annotated[
    str | None, typer.Option(help="Collections to track, comma separated.", metavar="A,B", show_default=False)
]
Document = Annotated[str, typer.Argument(metavar="COLLECTION/ID", help="A document of a tracked collection.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Use this server, in place of MongoDB.", show_default=False, metavar="URL"),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="Credential for --url: a token or a service key.",
        envvar=TOKEN,
        show_default=False,
        metavar="TOKEN",
    ),
]
Claims = Annotated[str, typer.Option("--claims", help="Claims as a JSON object.", metavar="JSON", show_default="none")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def document_shape(text: str) -> Shape:
    """Return the shape of a `Document` argument. Raises `Malformed`, also for a whole collection."""
    shape = Shape.parse(text)
    if shape.id is None:
        kind = "a collection" if shape.declared is None else "a declared shape"
        raise Malformed(f"{shape} is {kind}; give a document, COLLECTION/ID")
    return shape


def check_url(url: str, mongodb_uri: str | None, database: str | None) -> None:
    """Raise `ConfigurationError` if the options name both a server and a database."""
    if mongodb_uri is not None or database is not None:
        raise ConfigurationError(f"--url {url} is in place of --mongodb-uri and --database: give one or the others")


def check_credential(token: str | None) -> None:
    """Raise `ConfigurationError` if a token can't be sent in a header."""
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigurationError("--token has characters that no credential has")
