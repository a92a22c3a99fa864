"""Where a plugin's class comes from, and how its code is let go."""

from __future__ import annotations

import inspect
from pathlib import Path

from ..discovered import Discovered
from ..loader import PluginLoader


class Code:
    """The code of one generation of one plugin."""

    is_given = False
    """Whether it was not loaded by us, so that others may run it as well."""

    def load(self) -> type:
        """Import. May block; called in a thread of its own."""
        raise NotImplementedError

    def modules(self) -> tuple[str, ...]:
        """Names of the modules that are the plugin's own."""
        raise NotImplementedError

    def package(self) -> str:
        """The package that its modules are in, where no others are; empty where there is none."""
        return ""

    def files(self) -> Path | None:
        """The plugin's folder (or file), for static mounts."""
        raise NotImplementedError

    def owns(self, module: str, function: str) -> bool:
        """Whether a function (its qualified name) of a module is the plugin's, and of this generation."""
        raise NotImplementedError

    def unload(self) -> tuple[str, ...]:
        """Forget the modules; names of what is still there."""
        raise NotImplementedError


class GivenClass(Code):
    """A class that the application or a test handed over: not loaded by us, and not unloaded."""

    is_given = True

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def load(self) -> type:
        return self._cls

    def modules(self) -> tuple[str, ...]:
        return (self._cls.__module__,)

    def files(self) -> Path | None:
        module = inspect.getmodule(self._cls)
        return Path(module.__file__).parent if module is not None and module.__file__ else None

    def owns(self, module: str, function: str) -> bool:
        return module == self._cls.__module__ and function.startswith(f"{self._cls.__qualname__}.")

    def unload(self) -> tuple[str, ...]:
        return ()


class LoadedCode(Code):
    """One generation of a plugin that was found on the disk or by entry point."""

    def __init__(self, loader: PluginLoader, found: Discovered, generation: int) -> None:
        self._loader = loader
        self._found = found
        self._generation = generation

    def load(self) -> type:
        return self._loader.load(self._found, self._generation)

    def modules(self) -> tuple[str, ...]:
        return self._loader.modules(self._found.metadata.plugin_id, self._generation)

    def package(self) -> str:
        return self._loader.package(self._found.metadata.plugin_id, self._generation)

    def files(self) -> Path | None:
        return self._found.code if self._found.single_file else self._found.root

    def owns(self, module: str, function: str) -> bool:
        package = self.package()
        return module == package or module.startswith(f"{package}.")

    def unload(self) -> tuple[str, ...]:
        plugin_id = self._found.metadata.plugin_id
        self._loader.unload(plugin_id, self._generation)
        return tuple(self._loader.leftovers(plugin_id, self._generation))
