"""`eventsync status --url`: the overview of a server, for a terminal."""

from __future__ import annotations

from typing import Any

from eventsync.cli.administration import ask
from eventsync.cli.console import OUT, print_json, print_table, printable

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def show(url: str, token: str | None, *, as_json: bool) -> bool:
    """Print the overview. Return True if a worker leads."""
    found = ask(url, token, "/v1/admin/overview")
    if as_json:
        print_json(found)
    else:
        _show(found)
    return found["leader"] is not None


def _show(found: dict[str, Any]) -> None:
    for problem in found["problems"]:
        text = f"{problem['severity']}: {problem['what']}. {problem['remedy']}"
        OUT.print(printable(text), style=_STYLES.get(problem["severity"], ""), markup=False, soft_wrap=True)
    log, totals, lag = found["log"], found["totals"], found["lag"]
    p50, p99 = totals["delivery_p50"], totals["delivery_p99"]
    print_table(
        ["", ""],
        [
            ["log", "none yet" if log is None else f"{log['id']} (number {log['number']}: {log['reason']})"],
            ["head", "-" if log is None else log["head"]],
            ["leader", found["leader"] or "none: start `eventsync worker`"],
            ["standbys", ", ".join(found["standbys"]) or "none"],
            ["lag", f"{_known(lag['events'])} events, {_known(lag['seconds'])} s"],
            ["events", f"{totals['events_per_second']} a second"],
            ["writes", f"{totals['writes_per_second']} a second"],
            ["deliveries", f"{totals['deliveries_per_second']} a second"],
            ["commit to delivery", "-" if p50 is None else f"median {_ms(p50)}, p99 {_ms(p99)}"],
            ["connections", _connections(totals["connections"])],
        ],
    )
    OUT.print()
    rows = [
        [each["name"], each["version"], f"{each['uptime']:.0f} s", _connections(each["connections"])]
        for each in found["servers"]
    ]
    print_table(["server", "version", "uptime", "connections"], rows)
    if found["workers"]:
        OUT.print()
        rows = [
            [each["name"], each["version"], f"{each['uptime']:.0f} s", "leads" if each["leads"] else "stands by"]
            for each in found["workers"]
        ]
        print_table(["worker", "version", "uptime", ""], rows)


def _connections(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {transport}" for transport, count in sorted(counts.items()) if count) or "none"


def _known(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
