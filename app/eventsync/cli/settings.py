"""`eventsync settings`: every setting, where it comes from and what it is now."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer

from eventsync.cli.console import print_json, print_table
from eventsync.cli.options import Json
from eventsync.errors import ConfigurationError
from eventsync.settings import PREFIX, Settings, load_settings
from eventsync.urls import bare, masked

MARKDOWN_HEAD: Final = """\
# Settings

Made by `eventsync settings --markdown`; a test holds it to the code.

Each setting comes from a command's own option, else from its environment variable, else from the TOML file: the one
that `EVENTSYNC_CONFIG` names, else `eventsync.toml` in the current directory, else the one that a running
`eventsync dev` leaves in `.eventsync/`. A command (not `serve` or `worker`) that finds none of them, and is given no
connection string, takes that of the one `dev` that the user runs elsewhere; where there are several,
`EVENTSYNC_CONFIG` has to name one.

A variable with the prefix that is no setting is refused, but for `EVENTSYNC_TEST_…` and what Kubernetes sets for
Services. (A Service called `eventsync` sets `EVENTSYNC_PORT`, too: give it another name, or set `enableServiceLinks` to
false.)
The TOML key is the name; a list is `a,b` in the environment.

| name | environment variable | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of the listing. `value` is the one in force here, without secrets."""

    name: str
    env: str
    value: Any
    default: Any
    description: str


def settings(
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write the page of settings for the documentation, without values.")
    ] = False,
) -> None:
    """Print every setting: name, environment variable, current value, default and meaning."""
    if markdown:
        typer.echo(as_markdown(), nl=False)
        return
    listed = listing(load_settings())
    if as_json:
        print_json([asdict(item) for item in listed])
        return
    rows = [[item.name, item.env, _text(item.value), _text(item.default), item.description] for item in listed]
    print_table(["name", "environment variable", "value", "default", "meaning"], rows)


def listing(current: Settings) -> list[Setting]:
    """All settings, in the order of `Settings`."""
    return [
        Setting(
            name=name,
            env=f"{PREFIX}{name.upper()}",
            value=_shown(name, getattr(current, name)),
            default=_shown(name, field.get_default()),
            description=_description(name, field.description),
        )
        for name, field in Settings.model_fields.items()
    ]


def _description(name: str, text: str | None) -> str:
    if not text:
        raise ConfigurationError(f"the setting {name} has no description")
    return text


def _shown(name: str, value: Any) -> Any:
    if name == "mongodb_uri" and value is not None:
        return masked(value)
    if name == "archive_url":
        return bare(value)
    return list(value) if isinstance(value, tuple) else value


def as_markdown() -> str:
    """The text of docs/reference/settings.md."""
    return MARKDOWN_HEAD + "".join(
        f"| `{name}` | `{PREFIX}{name.upper()}` | {_cell(field.get_default())} | "
        f"{_description(name, field.description).replace('|', chr(92) + '|')} |\n"
        for name, field in Settings.model_fields.items()
    )


def _cell(default: Any) -> str:
    text = _text(default)
    return f"`{text}`" if text else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    return ",".join(value) if isinstance(value, list | tuple) else str(value)
