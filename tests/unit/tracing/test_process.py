"""The tracing of a process: nothing without the setting, a clear error without the extra, the host's exporter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventsync.errors import ConfigurationError
from eventsync.tracing import process
from support.environment import environment_with
from support.waiting import patience

PROGRAM = "import sys, eventsync.main, eventsync.mounting, eventsync_workers.worker; print(*sys.modules)"


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    words = [sys.executable, "-c", program]
    return subprocess.run(words, capture_output=True, text=True, timeout=patience(60), check=False)


def test_a_process_that_does_not_trace_imports_nothing_of_opentelemetry() -> None:
    shown = run(PROGRAM)
    assert shown.returncode == 0, shown.stderr
    assert [name for name in shown.stdout.split() if name.startswith("opentelemetry")] == []
    assert "eventsync.tracing.spans" not in shown.stdout.split()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_without_the_extra_ends_and_names_it(command: str, tmp_path: Path) -> None:
    # As if it were not installed: this one comes first.
    package = tmp_path / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text("raise ModuleNotFoundError(__name__)")
    # Nothing is at that address, which a process waits for.
    nowhere = {"mongodb_uri": "mongodb://127.0.0.1:1/?replicaSet=rs0", "mongodb_timeout": 0.1, "port": 0}
    environment = environment_with(**nowhere, tracing=True) | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "eventsync", command]
    shown = subprocess.run(
        words, capture_output=True, text=True, timeout=patience(60), check=False, env=environment, cwd=tmp_path
    )
    assert shown.returncode == ConfigurationError.exit_code
    last = shown.stderr.strip().splitlines()[-1]
    assert last.endswith("tracing is true, and OpenTelemetry is not installed: pip install 'eventsync[otel]'")


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        process.require()
    # That of traces is the one that counts.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    process.require()


async def test_running_without_the_setting_traces_nothing() -> None:
    async with process.running("eventsync-server", enabled=False):
        assert process.current() is None
        assert process.carried() is None


async def test_running_ends_with_the_outermost_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with process.running("eventsync-server", enabled=True):
        found = process.current()
        assert found is not None
        async with process.running("eventsync-worker", enabled=True):
            assert process.current() is found
        assert process.current() is found
    assert process.current() is None
    async with process.running("eventsync-server", enabled=True):
        assert process.current() not in {None, found}, "a process that restarts in place traces again"


HOSTED = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from eventsync.tracing import process

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

async def main():
    scope = {"headers": [], "scheme": "http"}
    async with process.running("eventsync-server", enabled=True):
        with provider.get_tracer("host").start_as_current_span("host"):
            process.current().request(scope, "PATCH").answered("/v1", "PATCH", "200")
    with provider.get_tracer("host").start_as_current_span("later"):
        pass
    request, host, later = exporter.get_finished_spans()
    assert (request.name, host.name, later.name) == ("PATCH /v1", "host", "later")
    assert request.parent.span_id == host.context.span_id

asyncio.run(main())
"""


def test_spans_go_to_the_exporter_of_the_host() -> None:
    shown = run(HOSTED)
    assert shown.returncode == 0, shown.stderr
