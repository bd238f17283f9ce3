"""`eventsync rules`: checks and applies the rules file, and shows the declared shapes and the rules in force."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from eventsync.cli.console import NOTES, OUT, print_json, print_table, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.cli.rules_trying import diff, explain_access, principal_of, print_explanation, try_cases
from eventsync.domain.access.grants import PREFIX
from eventsync.domain.positions import LogId
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.domain.predicates.routed_shape import RoutedShape, is_shape_name
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import ConfigurationError, Unavailable, UnknownShape
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.query_plans import QueryPlans
from eventsync.process import event_loop
from eventsync.rules.costs import Cost, cost_of, create_index
from eventsync.rules.file import RulesFile, applied_text, path_of, read_file, require_auth, require_valid
from eventsync.rules.review import labels, unknown_fields, unusable_secrets, warnings
from eventsync.settings import Settings, load_settings
from eventsync.stores.log.registry import DeclaredShape, Registry
from eventsync.stores.readiness import connected
from eventsync.stores.stores import SEQUENCING, Stores

__all__ = ["rules"]

rules = typer.Typer(
    name="rules",
    help="Check and apply the rules file; show the declared shapes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The rules file.", show_default="EVENTSYNC_RULES_FILE, else rules.toml"),
]

_PIPELINE: Final[list[dict[str, Any]]] = [
    {"$match": {"ns.coll": {"$in": ["shapes", "collections", "logs"]}}},
    {"$project": {"_id": 1}},
]


# --- check --------------------------------------------------------------------------------------------------------


@rules.command()
def check(file: File = None, mongodb_uri: MongodbUri = None, database: Database = None, as_json: Json = False) -> None:
    """Check the rules file, and what it asks of the database.

    Print what is wrong and why, what is probably not meant, which secrets can't be read here, and which filters lack
    an index. Exit code 1 if the file can't be applied. Without a database, neither indexes nor names of fields are
    checked.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    path = path_of(settings, file)
    found = read_file(path)
    costs, unknown, unchecked = event_loop.run(_compared(settings, found))
    suspicious = [*_suspicious(found), *unknown]
    problems = [{"place": problem.place, "reason": problem.reason} for problem in found.problems]
    definitions = _definitions(found)
    if as_json:
        shapes = [_checked_tree(label, item, costs.get(item.name)) for label, item in definitions]
        tree = {"file": str(path), "shapes": shapes, "problems": problems}
        print_json(tree | {"warnings": suspicious, "unchecked": unchecked})
    else:
        if rows := [_checked_row(label, item, costs.get(item.name)) for label, item in definitions]:
            print_table(["shape", "collection", "parameters", "reads"], rows)
        for problem in found.problems:
            OUT.print(printable(problem.message), style="red", markup=False, soft_wrap=True)
        for text in suspicious:
            _note(text)
        _print_indexes({item.name: item for _, item in definitions}, costs)
        if unchecked:
            _note(f"indexes are not checked, nor names of fields: {unchecked}")
    if problems:
        raise typer.Exit(1)


def _suspicious(file: RulesFile) -> list[str]:
    """Return what is probably not meant in a file, besides what a database tells."""
    return [] if file.access is None else [*unusable_secrets(file.access.auth), *warnings(file.access)]


def _definitions(file: RulesFile) -> list[tuple[str, Definition]]:
    """Return the definitions of the shapes and of the read rules, each with a text for people."""
    ruled = file.access.definitions if file.access is not None else {}
    named = labels(file.access) if file.access is not None else {}
    shapes = [(name, definition) for name, definition in file.definitions.items()]
    return [*shapes, *((named[name], definition) for name, definition in ruled.items())]


async def _compared(settings: Settings, file: RulesFile) -> tuple[dict[str, Cost], list[str], str | None]:
    """Compare the file with the database. Return the cost of each definition by name, the fields that no document has,
    and the reason for which there is nothing.
    """
    try:
        async with connected(settings, "rules") as client:
            plans = QueryPlans(client[settings.database])
            costs = {item.name: await cost_of(plans, item) for _, item in _definitions(file)}
            unknown = await unknown_fields(Stores.of(client, settings), file.access) if file.access is not None else []
            return costs, unknown, None
    except (ConfigurationError, Unavailable) as error:
        return {}, [], error.message


def _checked_row(label: str, definition: Definition, cost: Cost | None) -> list[str]:
    return [label, definition.collection, _parameters(definition), cost.reason if cost else ""]


def _checked_tree(label: str, definition: Definition, cost: Cost | None) -> dict[str, Any]:
    tree = {
        "name": label,
        "collection": definition.collection,
        "parameters": {name: sorted(kinds) for name, kinds in definition.types.items()},
        "lists": sorted(definition.lists),
    }
    return tree | ({"reads": _cost_tree(cost)} if cost else {})


def _cost_tree(cost: Cost) -> dict[str, Any]:
    indexes = [index.name for index in cost.plan.indexes]
    return {"scan": cost.is_scan, "text": cost.reason, "indexes": indexes, "wanted": cost.wanted}


def _print_indexes(definitions: Mapping[str, Definition], costs: Mapping[str, Cost]) -> None:
    """Print the commands that create the indexes that would help, each once."""
    commands = dict.fromkeys(
        create_index(definitions[name].collection, fields) for name, cost in costs.items() for fields in cost.wanted
    )
    for command in commands:
        _note(f"an index would help: {command}")


def _parameters(definition: Definition) -> str:
    return ", ".join(
        f"{name}: {'|'.join(sorted(kinds))}{' (list)' if name in definition.lists else ''}"
        for name, kinds in definition.types.items()
    )


def _note(text: str) -> None:
    NOTES.print(printable(text), style="yellow", markup=False, soft_wrap=True)


# --- apply --------------------------------------------------------------------------------------------------------


@rules.command()
def apply(
    file: File = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    timeout: Annotated[
        float, typer.Option(help="Maximum wait for a worker to activate the shapes and rules, in seconds.", min=0)
    ] = 30.0,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Take [auth] away: afterwards everything is allowed to everybody.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put the shapes and rules of the rules file in force, and no others.

    Wait until a worker has activated them. Servers and workers follow. A changed shape can't be read until it is
    active again; its clients get a reset. What the rules take away is obeyed at once.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    path = path_of(settings, file)
    found = read_file(path)
    require_valid(path, found)
    event_loop.run(_apply(settings, found, timeout, open_to_all=open_to_all, as_json=as_json))


async def _apply(settings: Settings, file: RulesFile, timeout: float, *, open_to_all: bool, as_json: bool) -> None:
    async with connected(settings, "rules") as client:
        stores = Stores.of(client, settings)
        if not open_to_all:
            require_auth(file, (await stores.definitions.read()).rules)
        # The stream first: it must not miss an activation.
        async with watch(stores.log, _PIPELINE) as stream:
            applied = await stores.definitions.apply(file.declarations, file.spec)
            if as_json:
                print_json(asdict(applied))
            else:
                OUT.print(applied_text(applied), markup=False, soft_wrap=True)
            deadline = time.monotonic() + timeout
            while (found := await _Shapes.read(stores)).waiting:
                if (left := deadline - time.monotonic()) <= 0:
                    raise Unavailable(await _reason(stores, found, timeout))
                await stream.read(wait=min(1.0, left), limit=100)
    for shape in found.registry.shapes:
        if shape.refused is None and not found.is_active(shape):
            _note(f"{_name(shape)} {found.state(shape)}")
    if refused := [f"{_name(shape)}: {shape.refused}" for shape in found.registry.shapes if shape.refused]:
        raise Unavailable(f"can't be served: {'; '.join(refused)}")


async def _reason(stores: Stores, found: _Shapes, timeout: float) -> str:
    lease = await stores.leases.read(SEQUENCING)
    reason = (
        "its leader has not activated them yet" if lease and lease.live else "no worker runs: start `eventsync worker`"
    )
    names = ", ".join(_name(shape) for shape in found.waiting)
    return f"{names}: declared, but not active after {timeout:g} s; {reason}. The declaration stands"


# --- show ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The declared shapes, with all that their states depend on."""

    registry: Registry
    log: LogId | None
    tracked: frozenset[str]
    """The collections that are tracked, or about to be."""
    followed: frozenset[str]
    """The collections that are active in the log."""

    @classmethod
    async def read(cls, stores: Stores) -> _Shapes:
        current = await stores.logs.current()
        listed = await stores.tracking.read()
        log = current.id if current else None
        followed = frozenset(item.name for item in listed if log and item.log == log)
        tracked = frozenset(item.name for item in listed if not item.refused)
        return cls(await stores.definitions.read(), log, tracked, followed)

    def is_active(self, shape: DeclaredShape) -> bool:
        return self.log is not None and shape.log == self.log and shape.collection in self.followed

    @property
    def waiting(self) -> list[DeclaredShape]:
        """The shapes that a worker is to activate."""
        return [
            shape
            for shape in self.registry.shapes
            if shape.refused is None and not self.is_active(shape) and shape.collection in self.tracked
        ]

    def state(self, shape: DeclaredShape) -> str:
        if shape.refused is not None:
            return f"is refused: {shape.refused}"
        if self.is_active(shape):
            return f"is active after {shape.log}:{shape.base}"
        if shape.collection not in self.tracked:
            return f"waits until {shape.collection} is tracked: `eventsync track {shape.collection}`"
        return "waits for a worker"


@rules.command()
def show(mongodb_uri: MongodbUri = None, database: Database = None, as_json: Json = False) -> None:
    """List the declared shapes and their states, and the rules in force."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    found = event_loop.run(_show(settings))
    stored = found.registry.rules
    if as_json:
        shapes = [_shape_tree(shape, found) for shape in found.registry.shapes]
        tree = {"number": found.registry.number, "shapes": shapes}
        print_json(tree | ({} if stored is None else {"rules": {"number": stored.number, **from_spec(stored.spec)}}))
        return
    rows = [
        [_name(shape), shape.collection, _declared_parameters(shape), str(shape.number), found.state(shape)]
        for shape in found.registry.shapes
    ]
    if rows:
        print_table(["shape", "collection", "parameters", "rules", "state"], rows)
    else:
        OUT.print("no shapes are declared", markup=False)
    if stored is not None:
        OUT.print(f"\nrules {stored.number}: what is not allowed here is not allowed", markup=False)
        print_table(["collection", "role", "rule", ""], list(_rule_rows(stored.spec)))
    else:
        _note("no [auth] is applied: everything is allowed")


def from_spec(spec: str) -> dict[str, Any]:
    """Return the rules of a spec as a tree of JSON."""
    tree: dict[str, Any] = orjson.loads(spec)
    return tree


def _rule_rows(spec: str) -> Iterator[list[str]]:
    for collection, table in from_spec(spec)["collections"].items():
        for role, rules_of_role in table.items():
            for name, rule in rules_of_role.items():
                text = ", ".join(rule) if isinstance(rule, list) else orjson.dumps(rule).decode()
                yield [collection, role, name, text]


def _name(shape: DeclaredShape) -> str:
    """Return the name of a declared shape, for people."""
    return shape.name if is_shape_name(shape.name) else f"a read rule ({shape.name.removeprefix(PREFIX)})"


async def _show(settings: Settings) -> _Shapes:
    async with connected(settings, "rules") as client:
        return await _Shapes.read(Stores.of(client, settings))


def _declared_parameters(shape: DeclaredShape) -> str:
    try:
        return _parameters(shape.definition())
    except UnknownShape as error:
        return error.message


def _shape_tree(shape: DeclaredShape, found: _Shapes) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": shape.name,
        "collection": shape.collection,
        "number": shape.number,
        "digest": shape.digest,
        "active": found.is_active(shape),
        "state": found.state(shape),
    }
    return tree | ({"since": f"{shape.log}:{shape.base}"} if found.is_active(shape) else {})


# --- explain ------------------------------------------------------------------------------------------------------


@rules.command()
def explain(
    shape: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE",
            help="A declared shape with values, `my_orders?owner=7`; with --as `orders/42` or `orders`.",
        ),
    ],
    claims: Annotated[
        str | None, typer.Option("--as", metavar="CLAIMS", help='Claims of a principal: \'{"sub": "ada"}\'.')
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="With --as: a role that is given directly, as to a service key.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="With --as: explain this file instead of what is applied.")
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show how a shape is read, or what a principal may do.

    Print the shape's filter, its keys, its state, and the indexes that MongoDB uses. Without values, `my_orders`, the
    indexes are those for a value of each type. With --as, print by which rule of which role a document may be read
    and changed, or may not.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    if claims is not None:
        tree = explain_access(settings, shape, principal_of(claims, role), file)
        if as_json:
            print_json(tree)
        else:
            print_explanation(tree)
        return
    name, mark, _ = shape.partition("?")
    bound = RoutedShape.parse(shape) if mark else None
    tree = event_loop.run(_explain(settings, name, bound))
    if as_json:
        print_json(tree)
    else:
        print_table(["", ""], [[key, _text(value)] for key, value in tree.items() if value not in (None, [], ())])


async def _explain(settings: Settings, name: str, bound: RoutedShape | None) -> dict[str, Any]:
    async with connected(settings, "rules") as client:
        found = await _Shapes.read(Stores.of(client, settings))
        declared = next((shape for shape in found.registry.shapes if shape.name == name), None)
        if declared is None:
            raise UnknownShape(f"no shape {name!r} is declared; `eventsync rules show` lists all")
        definition = declared.definition()
        route = definition.bind_shape(bound) if bound else None
        plans = QueryPlans(client[settings.database])
        cost = await cost_of(plans, definition, route)
    return _explained(declared, definition, route) | {
        "state": found.state(declared),
        "reads": cost.reason,
        "wanted": [create_index(definition.collection, fields) for fields in cost.wanted],
    }


def _explained(declared: DeclaredShape, definition: Definition, route: Route | None) -> dict[str, Any]:
    return {
        "shape": str(route.shape) if route else definition.name,
        "collection": definition.collection,
        "parameters": _parameters(definition),
        "where": definition.where,
        "partitions": [list(branch.paths) for branch in definition.branches],
        "digest": declared.digest,
        "filter": route.filter if route else None,
        "scope": route.scope if route else None,
        "keys": sorted(key.hex() for key in route.keys) if route else None,
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return to_json(value).decode()


rules.command("test")(try_cases)
rules.command()(diff)
