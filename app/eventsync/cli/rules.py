"""`eventsync rules`: checks and applies the rules file, and shows the shapes that are declared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from eventsync.cli.console import NOTES, OUT, print_json, print_table, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.domain.positions import LogId
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import ConfigurationError, Unavailable, UnknownShape
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import connect
from eventsync.mongodb.query_plans import QueryPlans
from eventsync.process import event_loop
from eventsync.rules.costs import Cost, cost_of, create_index
from eventsync.rules.file import RulesFile, applied_text, path_of, read_file, require_valid
from eventsync.settings import Settings, load_settings
from eventsync.stores.log.definitions import DeclaredShape, Registry
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
    """Check the rules file for what can't be routed.

    Print also which shapes lack an index in the database. Exit code 1 if a shape can't be routed. Without a
    database, indexes are not checked.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    path = path_of(settings, file)
    declarations = read_file(path)
    costs, unchecked = event_loop.run(_costs(settings, declarations.definitions))
    problems = [{"place": problem.place, "reason": problem.reason} for problem in declarations.problems]
    if as_json:
        shapes = [_checked_tree(item, costs.get(item.name)) for item in declarations.definitions.values()]
        print_json({"file": str(path), "shapes": shapes, "problems": problems, "unchecked": unchecked})
    else:
        rows = [_checked_row(item, costs.get(item.name)) for item in declarations.definitions.values()]
        if rows:
            print_table(["shape", "collection", "parameters", "reads"], rows)
        for problem in declarations.problems:
            OUT.print(printable(problem.message), style="red", markup=False, soft_wrap=True)
        _print_indexes(declarations.definitions, costs)
        if unchecked:
            _note(f"indexes are not checked: {unchecked}")
    if problems:
        raise typer.Exit(1)


async def _costs(settings: Settings, definitions: Mapping[str, Definition]) -> tuple[dict[str, Cost], str | None]:
    """Return the cost of each shape, by name, and the reason for which there is none."""
    try:
        async with connect(settings, "rules") as client:
            plans = QueryPlans(client[settings.database])
            return {name: await cost_of(plans, item) for name, item in definitions.items()}, None
    except (ConfigurationError, Unavailable) as error:
        return {}, error.message


def _checked_row(definition: Definition, cost: Cost | None) -> list[str]:
    return [definition.name, definition.collection, _parameters(definition), cost.reason if cost else ""]


def _checked_tree(definition: Definition, cost: Cost | None) -> dict[str, Any]:
    tree = {
        "name": definition.name,
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
        float, typer.Option(help="Maximum wait for a worker to activate the shapes, in seconds.", min=0)
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Declare the shapes of the rules file and no others.

    Wait until a worker has activated them. Servers and workers follow. A changed shape can't be read until it is
    active again; its clients get a reset.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    path = path_of(settings, file)
    found = read_file(path)
    require_valid(path, found)
    event_loop.run(_apply(settings, found, timeout, as_json))


async def _apply(settings: Settings, file: RulesFile, timeout: float, as_json: bool) -> None:
    async with connect(settings, "rules") as client:
        stores = Stores.of(client, settings)
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
            _note(f"{shape.name} {found.state(shape)}")
    if refused := [f"{shape.name}: {shape.refused}" for shape in found.registry.shapes if shape.refused]:
        raise Unavailable(f"can't be served: {'; '.join(refused)}")


async def _reason(stores: Stores, found: _Shapes, timeout: float) -> str:
    lease = await stores.leases.read(SEQUENCING)
    reason = (
        "its leader has not activated them yet" if lease and lease.live else "no worker runs: start `eventsync worker`"
    )
    names = ", ".join(shape.name for shape in found.waiting)
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
    """List the declared shapes and their states."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    found = event_loop.run(_show(settings))
    if as_json:
        shapes = [_shape_tree(shape, found) for shape in found.registry.shapes]
        print_json({"number": found.registry.number, "shapes": shapes})
        return
    rows = [
        [shape.name, shape.collection, _declared_parameters(shape), str(shape.number), found.state(shape)]
        for shape in found.registry.shapes
    ]
    if rows:
        print_table(["shape", "collection", "parameters", "rules", "state"], rows)
    else:
        OUT.print("no shapes are declared", markup=False)


async def _show(settings: Settings) -> _Shapes:
    async with connect(settings, "rules") as client:
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
    shape: Annotated[str, typer.Argument(metavar="SHAPE", help="A declared shape with values: `my_orders?owner=7`.")],
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show how a declared shape is read.

    Print its filter, its keys, its state, and the indexes that MongoDB uses. Without values, `my_orders`, the
    indexes are those for a value of each type.
    """
    name, mark, _ = shape.partition("?")
    bound = RoutedShape.parse(shape) if mark else None
    tree = event_loop.run(_explain(load_settings(mongodb_uri=mongodb_uri, database=database), name, bound))
    if as_json:
        print_json(tree)
    else:
        print_table(["", ""], [[key, _text(value)] for key, value in tree.items() if value not in (None, [], ())])


async def _explain(settings: Settings, name: str, bound: RoutedShape | None) -> dict[str, Any]:
    async with connect(settings, "rules") as client:
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
