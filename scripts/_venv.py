"""Makes `.venv` with what a script needs, and does nothing where it is there already.

usage: _venv.py runtime|docs|dev
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

LOCKS = {"runtime": "locks/local.txt", "docs": "locks/docs.txt", "dev": "locks/dev.txt"}
"""The packages of each kind, with hashes: `scripts/lock` writes it."""


def main() -> None:
    kind = sys.argv[1]
    wanted = stamp()
    if any(read(name) == wanted for name in {kind, "dev"}):
        return
    if not usable():
        make()
    say(f"installing what `{kind}` needs into .venv; half a minute, this once")
    install("--require-hashes", "-r", LOCKS[kind])
    # Built by what the lock has, not by what an index has today.
    install("--no-deps", "--no-build-isolation", "-e", ".")
    stamp_file(kind).write_text(wanted)


def install(*words: str) -> None:
    run([str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *words])


def stamp() -> str:
    """Return what an installation depends on: requirements, locks, and its place (scripts in a venv name it)."""
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "locks").glob("*.txt"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    return f"{digest.hexdigest()} {ROOT}\n"


def stamp_file(kind: str) -> Path:
    return VENV / f"eventsync-{kind}.stamp"


def read(kind: str) -> str:
    file = stamp_file(kind)
    return file.read_text() if PYTHON.exists() and file.is_file() else ""


def usable() -> bool:
    """Return True if the environment is whole, and was made here by a Python that still exists."""
    if not PYTHON.exists() or any(read(kind).partition(" ")[2] not in {"", f"{ROOT}\n"} for kind in LOCKS):
        return False
    return subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def make() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fail(f"{sys.executable} can't make environments; install the package python{version}-venv and start again")
    say(f"making .venv with Python {sys.version.split()[0]}")
    run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def run(command: list[str]) -> None:
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        fail(f"`{' '.join(command[1:])}` failed with exit code {code}; its messages are above")


def say(text: str) -> None:
    print(f"eventsync: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    say(text)
    sys.exit(2)


if __name__ == "__main__":
    main()
