"""Importing one plugin, and letting go of it without a trace."""

from __future__ import annotations

import importlib
import linecache
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

from pydantic import ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from contracts.errors import PlugbusError, PluginLoadError

from .discovered import PACKAGE, Discovered
from .discovery import PluginDiscovery
from .generations import GenerationFinder
from .modules import below
from .plugin_class import check_plugin_class, plugin_class_in
from .self_imports import relative_import

log = logging.getLogger("plugbus.kernel")

LONGEST_CAUSE = 600
"""Characters of another error's message that are repeated; the error itself is the `__cause__`."""


class PluginLoader:
    """Imports plugins under generation names. Any method may be called from any thread.

    A plugin whose import hangs holds up only the thread that loads it; `unload` cleans up behind it
    without waiting, and what it still tries to import afterwards is not found. A number that was used for
    a hanging import must not be used again.
    """

    def __init__(self) -> None:
        self._finder = GenerationFinder()
        self._classes: dict[str, dict[int, type]] = {}
        """Plugin → generation → class, of what is loaded."""
        self._last: dict[str, int] = {}
        self._lazily: dict[str, threading.Lock] = {}
        self.failures: dict[str, PluginLoadError] = {}
        """Why `load_plugin_safe` had nothing to answer, the last time for each plugin."""

    def load(self, discovered: Discovered, generation: int) -> type:
        """Run the plugin's code as generation `generation` and return its class, checked.

        Blocks as long as the plugin's modules take. Raises `PluginLoadError` with file, line and cause,
        and leaves nothing behind then.
        """
        plugin_id = discovered.plugin_id
        self._last[plugin_id] = max(generation, self._last.get(plugin_id, 0))
        try:
            package = self._finder.add(plugin_id, generation, discovered.code)
        except KeyError:
            raise PluginLoadError(
                f"generation {generation} of {plugin_id} is loaded already", fix="unload it, or count up"
            ) from None
        try:
            cls = _import(package, discovered)
        except BaseException:
            self.unload(plugin_id, generation)
            raise
        self._classes.setdefault(plugin_id, {})[generation] = cls
        return cls

    def load_plugin_class(self, discovered: Discovered, generation: int) -> type:
        """`load`, under the name that plugin guides use."""
        return self.load(discovered, generation)

    def load_plugin_safe(self, discovered: Discovered, generation: int) -> type | None:
        """`load`; None where it fails, whose reason is logged and kept in `failures`."""
        self.failures.pop(discovered.plugin_id, None)
        try:
            return self.load(discovered, generation)
        except PluginLoadError as error:
            self.failures[discovered.plugin_id] = error
            log.error("plugin %s could not be loaded: %s", discovered.plugin_id, error)  # noqa: TRY400 - it has its place
            return None

    def get_plugin_class(self, discovered: Discovered) -> type:
        """The class of the newest generation that is loaded; where there is none, it is loaded now.

        Lazy: the plugin's code runs when its class is first asked for. `generations` tells the number that
        it got, for `unload`. Raises as `load`.
        """
        plugin_id = discovered.plugin_id
        with self._lazily.setdefault(plugin_id, threading.Lock()):
            loaded = self._classes.get(plugin_id)
            if loaded:
                return loaded[max(loaded)]
            return self.load(discovered, self._last.get(plugin_id, 0) + 1)

    def generations(self, plugin_id: str) -> tuple[int, ...]:
        """The numbers of the generations that are loaded, the oldest first."""
        return tuple(sorted(self._classes.get(plugin_id, ())))

    def load_from_entry_point(self, entry_point: EntryPoint, generation: int) -> type:
        """Load the plugin that an entry point names, under a generation name as well.

        Raises `ManifestError` if there is none, and as `load`.
        """
        return self.load(PluginDiscovery().discover_entry_point(entry_point), generation)

    def unload(self, plugin_id: str, generation: int) -> None:
        """Forget the modules, loggers and cached source lines of a generation; safe twice.

        What still refers to the modules' objects keeps them alive, but nobody can import them any more.
        """
        package = self._finder.name_of(plugin_id, generation)
        self._finder.remove(plugin_id, generation)
        self._forget_class(plugin_id, generation)
        for name in _below(package, sys.modules):
            module = sys.modules.pop(name, None)
            linecache.cache.pop(getattr(module, "__file__", None) or "", None)
        _forget_loggers(package)

    def _forget_class(self, plugin_id: str, generation: int) -> None:
        loaded = self._classes.get(plugin_id, {})
        loaded.pop(generation, None)
        if not loaded:
            self._classes.pop(plugin_id, None)

    def package(self, plugin_id: str, generation: int) -> str:
        """The name under which a generation is imported; no other kernel in this process uses it."""
        return self._finder.name_of(plugin_id, generation)

    def modules(self, plugin_id: str, generation: int) -> tuple[str, ...]:
        """The names of the modules that a generation has imported so far."""
        return tuple(_below(self._finder.name_of(plugin_id, generation), sys.modules))

    def leftovers(self, plugin_id: str, generation: int) -> list[str]:
        """What is still there of a generation, in words; empty after `unload`."""
        package = self._finder.name_of(plugin_id, generation)
        left = [f"module {name}" for name in _below(package, sys.modules)]
        left += [f"logger {name}" for name in _below(package, logging.Logger.manager.loggerDict)]
        left += [f"finder of {package}"] if package in self._finder else []
        return left


def _import(package: str, discovered: Discovered) -> type:
    name = package if discovered.module == PACKAGE else f"{package}.{discovered.module}"
    try:
        module = importlib.import_module(name)
    except PluginLoadError:
        raise
    except SyntaxError as error:
        raise _syntax_error(error) from error
    except ModuleNotFoundError as error:
        raise _not_found(error, package, discovered) from error
    except (Exception, SystemExit) as error:
        raise _failed(error, discovered) from error
    cls = plugin_class_in(module, discovered.class_name)
    check_plugin_class(cls, discovered.metadata)
    return cls


def _syntax_error(error: SyntaxError) -> PluginLoadError:
    where = f"{error.filename}:{error.lineno}" if error.lineno else str(error.filename)
    return PluginLoadError(f"syntax error: {error.msg}", where=where, fix="mend the syntax there")


def _not_found(error: ModuleNotFoundError, package: str, discovered: Discovered) -> PluginLoadError:
    missing = error.name or ""
    where = _line_of(error, discovered) or discovered.metadata.file_path
    if missing.startswith(f"{package}."):
        inner = missing.removeprefix(f"{package}.")
        fix = f"write {inner.replace('.', '/')}.py, or mend the name"
        if discovered.single_file:
            fix = "a plugin of several modules is a folder with a plugin.toml"
        if not discovered.code.exists():
            fix = "it was there when the kernel started: put it back, or start the kernel again"
            return PluginLoadError("the plugin is gone", where=where, fix=fix)
        return PluginLoadError(f"the plugin has no module '{inner}'", where=where, fix=fix)
    if missing.startswith(f"{package.partition('.')[0]}."):
        text, fix = "the import leads out of the plugin's folder", "speak to other plugins by events"
        return PluginLoadError(text, where=where, fix=fix)
    fix = _own_module(missing, where, discovered) or f"install '{missing}' where plugbus is installed"
    return PluginLoadError(f"there is no module '{missing}'", where=where, fix=fix)


def _own_module(missing: str, where: str, discovered: Discovered) -> str:
    """The line to write, where the missing module is one of the plugin's own."""
    top = missing.partition(".")[0]
    own = None if discovered.single_file else below([discovered.root], top)
    file = Path(where.rpartition(":")[0])
    if own is None or not file.is_relative_to(discovered.root):
        return ""
    line = relative_import(discovered.root / "__init__.py", file, discovered.root, top)
    return f"a plugin imports its own modules relatively: '{line}'"


def _failed(error: BaseException, discovered: Discovered) -> PluginLoadError:
    text, fix = _told(error)
    return PluginLoadError(
        f"the import raised {type(error).__name__}" + (f": {text}" if text else ""),
        where=_line_of(error, discovered) or discovered.metadata.file_path,
        fix=fix or "mend the code that runs at import",
    )


def _told(error: BaseException) -> tuple[str, str]:
    """What it says in a few lines, and the fix where it names one."""
    if isinstance(error, PlugbusError):
        return _bounded(error.message), error.fix
    if isinstance(error, PydanticSchemaGenerationError):
        what = str(error).partition(". Set ")[0]
        return _bounded(what), "use JSON types, or a pydantic type that has a JSON schema"
    if not isinstance(error, ValidationError):
        return _bounded(str(error)), ""
    first = error.errors()[0]  # options that were made in the open: RetryPolicy(attempts=0)
    field = ".".join(map(str, first["loc"]))
    what, _, fix = first["msg"].removeprefix("Value error, ").partition("; fix: ")
    said = f"{error.title}({field}=…)" if field else error.title
    return _bounded(f"{said}: {what}"), fix or f"see {error.title} for what it may be"


def _bounded(text: str) -> str:
    lines = text.strip()[:LONGEST_CAUSE].splitlines()[:8]
    short = "\n".join(lines)
    return short if short == text.strip() else f"{short} …"


def _line_of(error: BaseException, discovered: Discovered) -> str:
    """The innermost line of the plugin's own that the error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(discovered.code):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _below(package: str, names: Mapping[str, object]) -> list[str]:
    inside = f"{package}."
    return [name for name in list(names) if name == package or name.startswith(inside)]


def _forget_loggers(package: str) -> None:
    """`getLogger(__name__)` keeps its logger for ever: in the manager, and in what stands above it."""
    known = logging.Logger.manager.loggerDict
    for name in _below(package, known):
        known.pop(name, None)
    for parent in _parents(package):
        holder = known.get(parent)
        if isinstance(holder, logging.PlaceHolder):
            _prune(holder, package)
            if not holder.loggerMap:
                known.pop(parent, None)


def _parents(package: str) -> list[str]:
    words = package.split(".")
    return [".".join(words[:count]) for count in range(len(words) - 1, 0, -1)]


def _prune(holder: logging.PlaceHolder, package: str) -> None:
    for logger in list(holder.loggerMap):
        if logger.name == package or logger.name.startswith(f"{package}."):
            holder.loggerMap.pop(logger, None)
