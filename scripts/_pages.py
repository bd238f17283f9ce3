"""Writes the pages of docs/reference that are made from the code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import typer

from eventsync.api import openapi
from eventsync.cli import commands
from eventsync.cli.settings import as_markdown
from eventsync.metrics import catalogue
from eventsync.metrics.catalogue import ALL
from eventsync.metrics.figures import Metric
from eventsync_workers.monitoring import catalogue as _of_worker  # noqa: F401 - declares those of a worker
from scripts._client_pages import python_client
from scripts._javascript_pages import javascript_client

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")
_WIDTH: Final = 100

Json = dict[str, Any]


def main() -> None:
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make())


def cli() -> str:
    """Return the page of the commands: the help of each."""
    group = typer.main.get_command(commands)
    root = group.make_context("eventsync", [], resilient_parsing=True, max_content_width=_WIDTH, terminal_width=_WIDTH)
    assert isinstance(group, typer.core.TyperGroup)  # noqa: S101 - for the type checker
    lines = [
        "# Commands",
        "",
        "The help of each command. `scripts/docs pages` makes this page; a test holds it to the code.",
        "",
    ]
    lines += _help(root.get_help())
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command is not None  # noqa: S101 - it is listed
        context = command.make_context(
            name, [], parent=root, resilient_parsing=True, max_content_width=_WIDTH, terminal_width=_WIDTH
        )
        lines += [f"## {name}", "", *_help(context.get_help())]
        if isinstance(command, typer.core.TyperGroup):
            lines += _commands_of(command, context)
    return "\n".join(lines).rstrip() + "\n"


def _commands_of(group: typer.core.TyperGroup, parent: Any) -> list[str]:
    """Return the help of each command of a group, such as `rules`."""
    lines = []
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None  # noqa: S101 - it is listed
        context = command.make_context(
            name, [], parent=parent, resilient_parsing=True, max_content_width=_WIDTH, terminal_width=_WIDTH
        )
        lines += [f"### {parent.info_name} {name}", "", *_help(context.get_help())]
    return lines


def _help(text: str) -> list[str]:
    return ["```text", *(line.rstrip() for line in text.strip().splitlines()), "```", ""]


def http() -> str:
    """Return the page of the HTTP API: each operation with its parameters and answers."""
    document = openapi.document()
    lines = [
        "# HTTP",
        "",
        "The operations of the HTTP API, from its OpenAPI document. `scripts/docs pages` makes this page; a test holds",
        "it to the code. Every server answers the whole document at `/openapi.json`, and a page to try it at `/docs`.",
        "The [protocol](protocol.md) has the semantics, the page of [errors](errors.md) the codes.",
        "",
    ]
    for tag in document["tags"]:
        found = [entry for entry in _operations(document) if entry[2]["tags"] == [tag["name"]]]
        lines += [f"## {tag['name']}", "", tag["description"], ""]
        for path, method, operation in found:
            lines += _operation(document, path, method, operation)
    return "\n".join(lines).rstrip() + "\n"


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method in _METHODS:
            if method in item:
                yield path, method, item[method] | {"parameters": [*shared, *item[method].get("parameters", [])]}


def _operation(document: Json, path: str, method: str, operation: Json) -> list[str]:
    lines = [f"### {method.upper()} {path}", "", _sentence(operation["summary"]), ""]
    if "description" in operation:
        lines += [*(_wrapped(line) for line in operation["description"].splitlines()), ""]
    parameters = [_resolved(document, parameter) for parameter in operation["parameters"]]
    if parameters:
        lines += ["| parameter | in | meaning |", "|---|---|---|"]
        lines += [f"| `{one['name']}` | {one['in']} | {_cell(one.get('description', ''))} |" for one in parameters]
        lines += [""]
    if "requestBody" in operation:
        lines += ["Body: " + ", ".join(f"`{kind}`" for kind in operation["requestBody"]["content"]) + ".", ""]
    lines += ["| answer | meaning |", "|---|---|"]
    answers = {status: _resolved(document, answer) for status, answer in operation["responses"].items()}
    lines += [f"| {status} | {_cell(answer['description'])} |" for status, answer in answers.items()]
    return [*lines, ""]


def _resolved(document: Json, node: Json) -> Json:
    """Return what a `$ref` points to, or the node itself."""
    found: Any = document
    if "$ref" not in node:
        return node
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


_SECTIONS: Final = (
    ("Log and MongoDB", "The same on every server. Two servers' values are not to be added."),
    (
        "Server",
        "Of the server processes on one port together. Counters include those that have been replaced.",
    ),
    ("Worker", "On `worker_port`."),
    ("Every process", "On both."),
)


def metrics() -> str:
    """Return the page of the metrics: each with its labels and meaning."""
    lines = [
        "# Metrics",
        "",
        "A server answers `GET /metrics`, and a worker on its [`worker_port`](settings.md), as text for Prometheus.",
        "With `serve --workers N`, each answer tells of all server processes. `scripts/docs pages` makes this page;",
        "tests hold it to the code and to running processes. The guide to [monitoring](../guides/monitoring.md) has",
        "alerts and a dashboard.",
        "",
    ]
    for title, text in _SECTIONS:
        lines += [f"## {title}", "", text, "", "| metric | type | meaning |", "|---|---|---|"]
        lines += [_metric(metric) for metric in ALL.values() if _section(metric) == title]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _section(metric: Metric) -> str:
    names = list(ALL)
    if metric in {catalogue.BUILD_INFO, catalogue.LOOP_LAG, *catalogue.PROCESS}:
        return "Every process"
    if metric.name.startswith("eventsync_worker_"):
        return "Worker"
    is_of_server = names.index(metric.name) < names.index(catalogue.MONGODB_UP.name)
    return "Server" if is_of_server else "Log and MongoDB"


def _metric(metric: Metric) -> str:
    labels = "{" + ",".join(metric.labels) + "}" if metric.labels else ""
    return f"| `{metric.name}{labels}` | {metric.kind} | {_cell(metric.help)} |"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": as_markdown,
    "cli.md": cli,
    "http.md": http,
    "python.md": python_client,
    "javascript.md": javascript_client,
    "metrics.md": metrics,
}
"""File → the function that returns its text."""


if __name__ == "__main__":
    main()
