"""`eventsync rules test`, `explain --as` and `diff`: rules tried on cases, on a document, and on the newest events."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from eventsync.cli.console import NOTES, OUT, print_json, print_table, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.domain.access.explanations import explained
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules
from eventsync.domain.ids import parse_id
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import ConfigurationError, Malformed, NotFound
from eventsync.nodestorage import stored_node
from eventsync.process import event_loop
from eventsync.rules.comparison import MAX_EVENTS, Replay, replayed
from eventsync.rules.file import RulesFile, path_of, read_file, require_valid
from eventsync.rules.trial import Verdict, read_cases, tried
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

Claims = Annotated[
    list[str],
    typer.Option(
        "--as", metavar="CLAIMS", help='Claims of a principal: \'{"sub": "ada"}\'. May be given several times.'
    ),
]


def principal_of(text: str, roles: list[str] | None = None) -> Principal:
    """Return the principal of a `--as` option. Raises `Malformed`."""
    try:
        claims = orjson.loads(text)
    except ValueError as error:
        raise Malformed(f'--as takes claims in JSON, such as {{"sub": "ada"}}: {error}') from error
    if not isinstance(claims, dict) or not isinstance(claims.get("sub", ""), str):
        raise Malformed('--as takes an object of claims, of which `sub` is a text: {"sub": "ada"}')
    return Principal(claims.get("sub", ""), claims, frozenset(roles or ()))


def _rules_of(path: Path, found: RulesFile) -> AccessRules:
    require_valid(path, found)
    if found.access is None:
        raise ConfigurationError(f"the rules file {path} has no [auth]: everything is allowed")
    return found.access


# --- test ---------------------------------------------------------------------------------------------------------


def try_cases(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="A file of cases, TOML or JSON.")],
    file: Annotated[
        Path | None,
        typer.Option("--file", help="The rules file.", show_default="EVENTSYNC_RULES_FILE, else rules.toml"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try the rules on cases.

    A case has claims, a document, an operation, and what is expected. Exit code 1 if one comes out otherwise. No
    database is needed.
    """
    path = path_of(load_settings(), file)
    rules = _rules_of(path, read_file(path))
    verdicts = [tried(rules, case) for case in read_cases(cases)]
    failed = [verdict for verdict in verdicts if verdict.wrong]
    if as_json:
        print_json({"cases": len(verdicts), "failed": len(failed), "verdicts": [_verdict(each) for each in verdicts]})
    else:
        for verdict in failed:
            case = verdict.case
            text = (
                f"{case.name or 'a case'}: {case.operation} of {case.collection}: {verdict.wrong} ({verdict.outcome})"
            )
            OUT.print(printable(text), style="red", markup=False, soft_wrap=True)
        OUT.print(f"{len(verdicts) - len(failed)} of {len(verdicts)} cases come out as expected", markup=False)
    if failed:
        raise typer.Exit(1)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    case = verdict.case
    tree = {"name": case.name, "sub": case.principal.sub, "collection": case.collection, "operation": case.operation}
    return tree | {"outcome": verdict.outcome, "wrong": verdict.wrong or None}


# --- explain ------------------------------------------------------------------------------------------------------


def explain_access(settings: Settings, target: str, principal: Principal, file: Path | None) -> dict[str, Any]:
    """Return what a principal may do with a document or in a collection, and why. Raises `Malformed`."""
    shape = Shape.parse(target)
    if shape.declared is not None:
        raise Malformed(
            "--as takes a collection or a document: a declared shape shows what both it and the rules allow"
        )
    return event_loop.run(_explained(settings, shape, principal, file))


async def _explained(settings: Settings, shape: Shape, principal: Principal, file: Path | None) -> dict[str, Any]:
    async with connected(settings, "rules") as client:
        stores = Stores.of(client, settings)
        rules = _rules_of(file, read_file(file)) if file else await rules_in_force(stores)
        if rules is None:
            raise NotFound("no [auth] has been applied: everything is allowed")
        document = None
        if shape.id is not None:
            node = await stored_node(stores.data, shape.name, parse_id(shape.id))
            if node is None:
                raise NotFound(f"there is no document {shape}")
            document = node.document
    return explained(rules, principal, shape.name, document)


async def rules_in_force(stores: Stores) -> AccessRules | None:
    """Return the rules that have been applied, or None. Raises `Unavailable`."""
    stored = (await stores.definitions.read()).rules
    return None if stored is None else stored.compiled()


def print_explanation(tree: dict[str, Any]) -> None:
    """Print what `explain_access` returns."""
    roles = [
        [f"{each['role']}: {name}", text] for each in tree["because"] for name, text in each.items() if name != "role"
    ]
    rows = [[name, _text(value)] for name, value in tree.items() if name != "because" and value not in ([], None)]
    print_table(["", ""], rows + roles)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else to_json(value).decode()


# --- diff ---------------------------------------------------------------------------------------------------------


def diff(
    principals: Claims,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The rules file.", show_default="EVENTSYNC_RULES_FILE, else rules.toml"),
    ] = None,
    events: Annotated[int, typer.Option(help="Newest events to replay.", min=1, max=MAX_EVENTS)] = 1_000,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show who would have seen more or less events.

    Replay the newest events of the log by the rules file and by the rules in force, for some principals. Nothing is
    changed.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    path = path_of(settings, file)
    found = read_file(path)
    require_valid(path, found)
    named = [principal_of(text) for text in principals]
    result = event_loop.run(_replayed(settings, found.access, named, events))
    if as_json:
        seen = [
            {"sub": named[number].sub, "collection": collection, **asdict(each)}
            for (number, collection), each in sorted(result.seen.items())
        ]
        print_json({"events": result.events, "unknown": result.unknown, "seen": seen})
        return
    _print_replay(result, named)


async def _replayed(settings: Settings, rules: AccessRules | None, principals: list[Principal], count: int) -> Replay:
    async with connected(settings, "rules") as client:
        stores = Stores.of(client, settings)
        return await replayed(stores, await rules_in_force(stores), rules, principals, count)


def _print_replay(result: Replay, principals: list[Principal]) -> None:
    rows = [
        [
            principals[number].sub,
            collection,
            *(str(count) for count in (seen.both, seen.more, seen.less, seen.redacted)),
            ", ".join(f"{mark}{name}" for name, mark in seen.documents.items()),
        ]
        for (number, collection), seen in sorted(result.seen.items())
    ]
    print_table(["principal", "collection", "events seen", "more", "less", "hidden otherwise", "such as"], rows)
    text = f"{result.events} events replayed"
    text += (
        f"; of {result.unknown} the document is not known, because older history is not kept" if result.unknown else ""
    )
    NOTES.print(text, style="dim", markup=False, soft_wrap=True)
