from __future__ import annotations

import subprocess
import sys
from typing import Any

from support.waiting import patience


def test_each_line_has_the_name_of_its_process(screen: Any) -> None:
    screen.terminal.say("hello")
    screen.terminal.line("server", "a [bold]line[/bold] as it is")
    assert screen.getvalue() == "dev    │ hello\nserver │ a [bold]line[/bold] as it is\n"


def test_control_characters_of_a_line_are_removed(screen: Any) -> None:
    screen.terminal.line("server", "a\x1b[2Jb\x9bc\rd\te")
    assert screen.getvalue() == "server │ a [2Jb c d e\n"


def test_a_long_line_is_not_folded() -> None:
    code = "from eventsync.dev.terminal import Terminal; Terminal().say('x' * 500)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == f"dev    │ {'x' * 500}\n"


def test_a_closed_terminal_is_no_failure() -> None:
    code = "from eventsync.dev.terminal import Terminal; t = Terminal(); t.say('a'); input(); t.say('b'); t.say('c')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert b"a" in process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(patience(10)) == 0
