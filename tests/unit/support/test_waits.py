"""All waits of the tests go through `support.waiting`, and nothing asserts a time: a busy machine fails none."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]

APART = {
    "support/waiting.py",
    "unit/support/test_task_runner.py",
    # A client of the workload that gives a request up early, and continues.
    "support/chaos/workload.py",
}

CLOCKS = ("monotonic()", "perf_counter()", "loop.time()", "get_running_loop().time()")

Rule = Callable[[ast.AST], bool]


def long(node: ast.expr | None) -> bool:
    """A number of seconds after which something fails; less is a wait for what is not to come."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value >= 1


def called(node: ast.AST, *names: str) -> ast.Call | None:
    return node if isinstance(node, ast.Call) and dotted(node.func) in names else None


def dotted(node: ast.AST) -> str:
    """The name of what is called; "" for the outcome of another call."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def given(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def fixed_deadline(node: ast.AST) -> bool:
    if call := called(node, "asyncio.timeout", "asyncio.wait_for"):
        return long(call.args[-1] if call.args else given(call, "timeout"))
    return isinstance(node, ast.Call) and long(given(node, "timeout"))


def default_deadline(node: ast.AST) -> bool:
    """httpx gives up after 5 s by itself."""
    call = called(node, "httpx.AsyncClient", "httpx.Client", "httpx.get", "httpx.post", "httpx.put")
    return call is not None and not (given(call, "timeout") or given(call, "transport"))


def own_connection(node: ast.AST) -> bool:
    """websockets gives up after 10 s by itself."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    return isinstance(node, ast.ImportFrom) and node.module == "websockets.asyncio.client" and "connect" in names


def asserted_time(node: ast.AST) -> bool:
    return isinstance(node, ast.Assert) and any(clock in ast.unparse(node.test) for clock in CLOCKS)


RULES: dict[str, Rule] = {
    "use support.waiting: within(…), patience(…)": fixed_deadline,
    "give httpx a timeout: patience(…)": default_deadline,
    "use support.peers.python.connect": own_connection,
    "assert what happened, not when": asserted_time,
}


def found(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        for advice, rule in RULES.items():
            if rule(node):
                yield getattr(node, "lineno", 0), advice


@pytest.mark.slow
def test_waits_grow_with_the_load() -> None:
    paths = [path for path in TESTS.rglob("*.py") if path.relative_to(TESTS).as_posix() not in APART]
    assert len(paths) > 200
    assert not [f"{path}:{line}: {advice}" for path in sorted(paths) for line, advice in found(path.read_text())]


@pytest.mark.parametrize(
    "text",
    [
        "asyncio.timeout(5)",
        "asyncio.wait_for(come(), 2.5)",
        "subprocess.run(words, timeout=10)",
        "process.wait(timeout=10)",
        "httpx.AsyncClient(base_url=url)",
        "from websockets.asyncio.client import connect",
        "assert time.monotonic() - began < 2",
    ],
)
def test_each_kind_is_found(text: str) -> None:
    assert len([*found(text)]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "asyncio.timeout(0.05)",
        "asyncio.wait_for(come(), patience(2.5))",
        "httpx.AsyncClient(base_url=url, timeout=patience(20))",
        "httpx.AsyncClient(transport=transport)",
        "from websockets.asyncio.client import ClientConnection",
        "assert found == 3",
    ],
)
def test_growth_and_waits_for_nothing_are_allowed(text: str) -> None:
    assert not [*found(text)]
