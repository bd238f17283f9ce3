"""Mutants of the client cores: the vectors and the models must notice each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from support.mutated import copy_changed
from support.waiting import patience

CLIENTS: Final = Path(__file__).parents[3] / "clients"
INTERLEAVINGS: Final = 3_000
"""Most of them that a mutant may live through."""

Mutant = tuple[str, str, str, str]
"""The fault, the module, a text that stands there once, and the text in its place."""

PYTHON: list[Mutant] = [
    ("an event that was seen is applied again", "replica", 'if event["seq"] <= own:', 'if event["seq"] < own:'),
    ("a hole in the events is not noticed", "replica", 'self._check(message["from"])\n        own,', "own,"),
    ("a hole before a squashed answer is not noticed", "replica", 'self._check(message["from"])\n        if', "if"),
    ("a reset keeps the position", "replica", "self.position, self.live = None, False", "self.live = False"),
    ("a snapshot keeps old rows", "replica",
     "self.documents, self.position = after,", "self.documents, self.position = before | after,"),
    ("a snapshot keeps stored rows", "replica", "after, clear=True)", "after)"),
    ("a snapshot does not tell of rows that are gone", "replica", "in before.keys() - after.keys():", "in ():"),
    ("an unchanged row is a change", "replica", "_same_row(before, after)):", "False):"),
    ("the position is kept before the parts are complete", "replica", 'if not message["last"]:', "if False:"),
    ("an incomplete answer stays", "replica", 'if message["part"] == 0:', "if False:"),
    ("a part of another answer is joined", "replica", 'if message["part"] != self._parts:', "if False:"),
    ("a squashed answer leaves old rows", "replica",
     '"squashed")\n            self._set(update, key, row)',
     '"squashed")\n            self._set(update, key, row or self.documents.get(key))'),
    ("an old squashed answer is applied", "replica",
     "if update is None:\n            return None\n        for document",
     "update = update or Update(self.shape, self.position_text)\n        for document"),
    ("progress moves backwards", "replica", "or not position.reaches(self.position) or", "or"),
    ("progress moves into another log", "positions", "self.log == other.log and other.seq", "other.seq"),
    ("an event that does not apply keeps the position", "replica",
     "self.position = None\n        return Gap(", "return Gap("),
    ("an event that does not apply leaves those before it", "replica",
     "documents.get(key)\n            touched[key] = after",
     "documents.get(key)\n            documents[key] = touched[key] = after"),
    ("an event builds on the state before its frame", "replica",
     "touched[key] if key in touched else documents.get(key)", "documents.get(key)"),
    ("a leave keeps the row", "replica",
     "elif self.documents.pop(key, None) is not None:", "elif key in self.documents:"),
    ("a leave keeps the stored row", "replica", "update.remove.append(key)", "pass"),
    ("a shape without a snapshot is live", "replica", "self.live = self.position is not None", "self.live = True"),
    ("a shape stays live without a connection", "replica",
     "self.live, self.retry_at = False, None", "self.retry_at = None"),
    ("one live shape is enough", "core", "all(held.live for", "any(held.live for"),
    ("a hole keeps the connection", "core", "self._again(str(gap), now)", "pass"),
    ("a renewal that fails is not repeated", "core", "self._renew_later(now, self._floor)", "pass"),
    ("a token counts before the server has taken it", "core",
     "self._sent_token = token\n", "self._token = self._sent_token = token\n"),
    ("what is not durable is acknowledged", "acks", "in self._durable.items()",
     "in ((each.shape, each.position_text) for each in self._held.values() if each.position_text)"),
    ("a new connection is not acknowledged", "acks", "self._acked.clear()", "pass"),
    ("a position is acknowledged before its changes are done", "followed",
     "if self.pending:\n            self.pending[-1]", "if False:\n            self.pending[-1]"),
    ("the first change of a frame counts as all", "store", "position if at == len(changes) else None", "position"),
    ("rows and position are stored apart", "store",
     "with self._write() as connection:\n            execute =",
     "for connection in [self.connection]:\n            execute ="),
    ("a restart acknowledges what is not done", "followed", "self.client.durable(self.text, None)", "pass"),
    ("a position without changes is not acknowledged", "followed",
     "self.pending[-1] = self.pending[-1]._replace(position=position)", "pass"),
    ("a position of another log is acknowledged", "acks",
     "held.live and held.position is not None and held.position.reaches(Position.parse(position))", "held.live"),
    ("changes come back in another order", "store",
     "WHERE shape = ? ORDER BY number", "WHERE shape = ? ORDER BY number DESC"),
    ("a restart loses the changes", "store", "if found[1]:", "if False:"),
    ("a change that is done stays first", "followed", "self.pending.popleft().position", "self.pending[0].position"),
]  # fmt: skip

_HOLE: Final = "if (!(distance(message.from, held.position) >= 0)) return hole(message);"

JAVASCRIPT: list[Mutant] = [
    ("an event that was seen is applied again", "replica", "if (event.seq <= own)", "if (event.seq < own)"),
    ("a hole in the events is not noticed", "replica",
     f"{_HOLE}\n  const own", "const own"),
    ("a hole before a squashed answer is not noticed", "replica",
     f"{_HOLE}\n  const rows", "const rows"),
    ("a reset keeps the position", "replica",
     "Object.assign(held, { position: null, staged", "Object.assign(held, { staged"),
    ("a snapshot keeps old rows", "replica",
     "held.documents = new Map(rows.map((row) => [row.id, same(before.get(row.id), row)]));",
     "held.documents = new Map([...before, ...rows.map((row) => [row.id, same(before.get(row.id), row)])]);"),
    ("a snapshot keeps stored rows", "replica", "clear: true", "clear: false"),
    ("the position is kept before the parts are complete", "replica", "if (!last) return null;", ""),
    ("a lost part is not noticed", "replica", "|| here.parts !== part", ""),
    ("a squashed answer leaves old rows", "replica",
     "row.deleted ? undefined", "row.deleted ? held.documents.get(row.id)"),
    ("an old squashed answer is applied", "replica", "distance(held.position, message.to) > 0 ? rows : []", "rows"),
    ("progress moves backwards", "replica",
     "distance(held.position, position) > 0)", "distance(held.position, position))"),
    ("progress moves into another log", "replica",
     "distance(held.position, position) > 0)", "!(distance(held.position, position) <= 0))"),
    ("an event that does not apply keeps the position", "replica", "held.position = null; //", "//"),
    ("an event that does not apply leaves those before it", "replica",
     "after.set(event.id, row);", "after.set(event.id, row); if (row) held.documents.set(event.id, row);"),
    ("an event builds on the state before its frame", "replica",
     "after.has(event.id) ? after.get(event.id) : held", "held"),
    ("a leave keeps the row", "replica", "held.documents.delete(id);", ""),
    ("a leave keeps the stored row", "replica", "remove.push(id);", ""),
    ("a shape stays live without a connection", "replica",
     "of this.#held.values()) Object.assign(held, { staged: null, live: false })",
     "of this.#held.values()) Object.assign(held, { staged: null })"),
    ("a hole keeps the connection", "core", "return this.again(reason, now);", "return;"),
    ("a renewal that fails is not repeated", "credential",
     "if (this.#sent !== null) this.renewLater(now, wait);", ""),
    ("a token counts before the server has taken it", "credential",
     "this.#sent = token;", "this.token = this.#sent = token;"),
    ("one shape that is not live is no matter", "core",
     'if (this.status !== "syncing" || !live) return;', 'if (this.status !== "syncing") return;'),
    ("what is not durable is acknowledged", "acks",
     "Object.fromEntries(open)", "Object.fromEntries(open.map(([shape]) => [shape, served(shape)]))"),
    ("a position of another log is acknowledged", "acks", "&& !isNaN(distance(durable, own))", ""),
    ("a new connection is not acknowledged", "acks", "this.#acked.clear();", ""),
    ("a stream is not acknowledged", "core",
     'this.oneWay ? this.output({ type: "acknowledge", vector })', "this.oneWay ? 0"),
    ("a write overtakes one that is under way", "queue",
     "find((entry) => !isAnswered(entry))", 'find(({ state }) => state === "queued")'),
    ("the queue forgets its order", "queue",
     "[...entries.slice(0, before + 1), entry, ...entries.slice(before + 1)]", "[entry, ...entries]"),
    ("a write is sent before it is stored", "queue", 'head?.state === "queued"', 'head && head.state !== "sending"'),
    ("a write loses its condition", "outbox", "let { ifMatch } = write;", "let ifMatch;"),
    ("a refused write stays pending", "outbox",
     "#reject(entry, problem) {\n    this.remove(entry);", "#reject(entry, problem) {"),
    ("a refused write stays in the view", "outbox",
     '"rejected", write: entry.write, problem });\n    this.redraw(entry);',
     '"rejected", write: entry.write, problem });'),
    ("a write is refused by a server that is busy", "requests", "status >= 500 || ", ""),
    ("a write is confirmed by another's event", "outbox",
     "op_id === undefined ? undefined : this.queue.get(op_id)", "this.queue.all.find(({ write }) => write.id === id)"),
    ("an unanswered write is dropped", "outbox",
     "this.#finish(key);\n    this.#offlineUntil",
     "const entry = this.#finish(key);\n    if (entry) this.remove(entry);\n    this.#offlineUntil"),
    ("an answered write is dropped before a shape has it", "settlement",
     "if (!this.#missing(entry).length) this.remove(entry);", "this.remove(entry);"),
    ("a write that is in a shape is shown over it", "pending",
     "|| this.settled.has(shape)) return false", ") return false"),
    ("a settled write stays in the view", "settlement", "this.redraw(entry, shape);", ""),
    ("rows that come whole settle nothing", "settlement", "this.mayHave(shape);\n    this.moved", "this.moved"),
    ("a document that enters settles nothing", "outbox", "if (enter) this.mayHave(shape, id);", ""),
    ("a restart settles nothing", "outbox", "if (!isNew) this.doubt(entry);", ""),
    ("a barrier covers a later write", "settlement",
     "if (!entry.asked) continue;", "if (!isAnswered(entry)) continue;"),
    ("a barrier of a former log is waited for", "pending",
     "=== undefined) this.barrier = null;", "=== undefined) return;"),
    ("a lost answer ends the sending", "outbox", 'if (entry?.state === "sending") entry.state = "queued";', ""),
]  # fmt: skip

IN_PYTHON: Final = """
import eventsync_client
from test_python_model import interleave
from test_python_vectors import CASES, test_case

print("runs", eventsync_client.__file__, flush=True)
for name in CASES:
    test_case(name)
interleave(range(int(sys.argv[1])))
print("passes")
"""


def passes_in_python(folder: Path, module: str, old: str, new: str) -> bool:
    """Return True if the vectors and some interleavings pass on a copy with one change."""
    copy_changed(CLIENTS / "python/eventsync_client", folder / "eventsync_client", f"{module}.py", old, new)
    path = os.pathsep.join(map(str, [folder, Path(__file__).parent]))
    done = run([sys.executable, "-c", f"import sys{IN_PYTHON}", str(INTERLEAVINGS)], folder, PYTHONPATH=path)
    assert f"runs {folder}" in done.stdout, done.stderr
    assert ("passes" in done.stdout) == (done.returncode == 0), done.stderr
    return done.returncode == 0


def passes_in_javascript(folder: Path, module: str, old: str, new: str) -> bool:
    """Return True if the vectors and some interleavings pass on a copy with one change."""
    copy_changed(CLIENTS / "js/src", folder / "js/src", f"{module}.js", old, new)
    shutil.copytree(CLIENTS / "js/test", folder / "js/test")
    shutil.copy(CLIENTS / "js/package.json", folder / "js")
    (folder / "vectors").symlink_to(CLIENTS / "vectors")
    for name in ("vectors", "model"):
        command = ["node", "--test-reporter=tap", f"js/test/{name}.test.mjs"]
        done = run(command, folder, MODEL_RUNS=str(INTERLEAVINGS), MODEL_SEED="0")
        # A module that cannot be loaded reports no test.
        assert ("\nok " if done.returncode == 0 else "\nnot ok ") in done.stdout, done.stderr
        if done.returncode:
            return False
    return True


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONHASHSEED": "0"} | environment
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience(60), check=False
    )


def faults(mutants: list[Mutant]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("module", "old", "new"), [pytest.param(*change, id=fault) for fault, *change in mutants]
    )


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


@pytest.mark.slow
@faults(PYTHON)
def test_python_tests_notice(module: str, old: str, new: str, tmp_path: Path) -> None:
    assert not passes_in_python(tmp_path, module, old, new)


@pytest.mark.slow
def test_python_tests_pass_on_a_copy(tmp_path: Path) -> None:
    assert passes_in_python(tmp_path, "core", "The client of the sync protocol without I/O", "The client")


@pytest.mark.slow
@needs_node
@faults(JAVASCRIPT)
def test_javascript_tests_notice(module: str, old: str, new: str, tmp_path: Path) -> None:
    assert not passes_in_javascript(tmp_path, module, old, new)


@pytest.mark.slow
@needs_node
def test_javascript_tests_pass_on_a_copy(tmp_path: Path) -> None:
    assert passes_in_javascript(tmp_path, "core", "The sync side of a client without I/O", "The sync side")
