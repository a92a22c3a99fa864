"""Importing a plugin's code under the name of its generation, `_plugins.billing.g7`, from source alone.

Bytecode files are neither read nor written: they are kept by seconds and size, so a quick save of the
same size would run the old code. Nothing is put on `sys.path`.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import decode_source, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from .modules import submodule
from .self_imports import check_imports, may_import_itself

ROOT = "_plugins"

_claim = threading.Lock()
"""Held while a finder takes or gives back its name among `sys.meta_path`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The code that one generation is made of."""

    name: str
    """Its package: `_plugins.billing.g7`."""
    code: Path
    """The plugin's folder, or its one file."""

    @property
    def folder(self) -> Path:
        return self.code if self.code.is_dir() else self.code.parent

    def find(self, inner: str) -> ModuleSpec | None:
        """The spec of the module `inner` (empty: the package itself) of this generation."""
        if not inner:
            init = self.code / "__init__.py"
            return (
                self._from_file(self.name, init) if init.is_file() else package(self.name, [str(self.code)])
            )
        location = submodule([self.folder], inner)
        if location is None or (self.code.is_file() and location.file != self.code):
            return None
        name = f"{self.name}.{inner}"
        if location.file is None:
            return package(name, [str(folder) for folder in location.folders])
        return self._from_file(name, location.file)

    def _from_file(self, name: str, file: Path) -> ModuleSpec | None:
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _SourceOnly(name, str(file), self.code)
        spec = spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)
        if spec is not None:
            spec.cached = None
        return spec


class GenerationFinder(MetaPathFinder):
    """Finds the modules of the generations that it was told of, and nothing else.

    Each finder has a root name of its own, because two kernels in one process may both have a first
    generation of one plugin. It is on `sys.meta_path` only while it has generations.
    """

    def __init__(self) -> None:
        self.root = ROOT
        self._generations: dict[str, Generation] = {}

    def name_of(self, plugin_id: str, number: int) -> str:
        return f"{self.root}.{plugin_id}.g{number}"

    def add(self, plugin_id: str, number: int, code: Path) -> str:
        """Make a generation importable; its package's name. Raises `KeyError` if it is already there."""
        with _claim:
            if not self._generations:
                self._take_name()
            name = self.name_of(plugin_id, number)
            if name in self._generations:
                raise KeyError(name)
            self._generations[name] = Generation(name, code)
            return name

    def remove(self, plugin_id: str, number: int) -> None:
        """The opposite of `add`. The packages above go with the last generation in them."""
        with _claim:
            name = self.name_of(plugin_id, number)
            self._generations.pop(name, None)
            while name and not self._holds(name):
                above, _, last = name.rpartition(".")
                sys.modules.pop(name, None)
                if parent := sys.modules.get(above):
                    vars(parent).pop(last, None)
                name = above
            if not self._generations and self in sys.meta_path:
                sys.meta_path.remove(self)

    def _holds(self, name: str) -> bool:
        return any(known == name or known.startswith(f"{name}.") for known in list(self._generations))

    def __contains__(self, name: str) -> bool:
        return name in self._generations

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.root:
            return None
        words = fullname.split(".")
        if len(words) <= 2:
            return package(fullname, []) if self._holds(fullname) else None
        generation = self._generations.get(".".join(words[:3]))
        return generation.find(".".join(words[3:])) if generation else None

    def _take_name(self) -> None:
        taken = {finder.root for finder in sys.meta_path if isinstance(finder, GenerationFinder)}
        number = 1
        while self.root in taken:
            number += 1
            self.root = f"{ROOT}{number}"
        sys.meta_path.insert(0, self)


def package(name: str, folders: list[str]) -> ModuleSpec:
    """The spec of a package without code of its own."""
    spec = ModuleSpec(name, _Empty(), is_package=True)
    spec.submodule_search_locations = folders
    return spec


class _Empty(Loader):
    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


class _SourceOnly(SourceFileLoader):
    def __init__(self, fullname: str, path: str, code: Path) -> None:
        super().__init__(fullname, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        data = self.get_data(self.path)
        code: CodeType = compile(data, self.path, "exec", dont_inherit=True)
        if may_import_itself(decode_source(data), self._code):
            check_imports(ast.parse(data, self.path), Path(self.path), self._code)
        return code
