"""Copies of a package's modules under another name, of which one is changed: mutants that a test has to notice."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType


class Copies:
    """Some modules of a package, each named after those that it imports.

    What stands before the changed module does not import it: all mutants share one copy of that.
    """

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._package, self._names = package, names
        self._copy = f"mutated_{package.rpartition('.')[2]}"
        folder = Path(import_module(package).__path__[0])
        self._texts = {name: (folder / f"{name}.py").read_text() for name in names}
        self._codes = dict[str, CodeType]()
        self._unchanged = dict[str, ModuleType]()

    @contextmanager
    def changed(self, module: str, old: str, new: str) -> Iterator[dict[str, ModuleType]]:
        """Yield the copies by name, with `new` in place of `old`, which stands in `module` once."""
        text = self._texts[module]
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {module}"
        place, made = self._names.index(module), dict[str, ModuleType]()
        try:
            for name in self._names[:place]:
                made[name] = self._unchanged.get(name) or self._run(name, self._code(name))
                self._unchanged[name] = sys.modules[made[name].__name__] = made[name]
            made[module] = self._run(module, self._compiled(module, text.replace(old, new)))
            for name in self._names[place + 1 :]:
                made[name] = self._run(name, self._code(name))
            yield made
        finally:
            for name in self._names:
                sys.modules.pop(f"{self._copy}.{name}", None)

    def _run(self, name: str, code: CodeType) -> ModuleType:
        module = sys.modules[f"{self._copy}.{name}"] = ModuleType(f"{self._copy}.{name}")
        exec(code, module.__dict__)  # noqa: S102 - the project's own source
        return module

    def _code(self, name: str) -> CodeType:
        if name not in self._codes:
            self._codes[name] = self._compiled(name, self._texts[name])
        return self._codes[name]

    def _compiled(self, name: str, text: str) -> CodeType:
        for other in self._names:
            text = text.replace(f"{self._package}.{other}", f"{self._copy}.{other}")
        return compile(text, f"<{name}>", "exec")


def copy_changed(folder: Path, copy: Path, name: str, old: str, new: str) -> None:
    """Copy a folder of sources, with `new` in place of `old`, which stands once in the file `name`."""
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / name).write_text(text.replace(old, new))
