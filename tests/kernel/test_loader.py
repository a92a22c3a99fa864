"""Importing plugins under generation names, refusing what is none, and leaving nothing behind."""

from __future__ import annotations

import gc
import importlib.metadata
import linecache
import logging
import os
import shutil
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contracts.base import BasePlugin
from contracts.errors import PluginLoadError
from kernel.discovery import Discovered, PluginDiscovery
from kernel.loader import PluginLoader

Plugin = Callable[..., Discovered]

CLASS = "from plugbus import BasePlugin\nclass Plugin(BasePlugin): ...\n"


def ours() -> set[str]:
    modules = {f"module {name}" for name in sys.modules if name.startswith("_plugins")}
    loggers = {f"logger {name}" for name in logging.Logger.manager.loggerDict if name.startswith("_plugins")}
    return (
        modules | loggers | {f"finder {finder}" for finder in sys.meta_path if "Generation" in repr(finder)}
    )


@pytest.fixture
def loader() -> Iterator[PluginLoader]:
    path = list(sys.path)
    yield PluginLoader()
    assert sys.path == path
    left = ours()
    for name in [name for name in sys.modules if name.startswith("_plugins")]:
        del sys.modules[name]
    assert not left


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Writes a folder plugin `alerts` whose class is `alerts:Plugin`, further files as `name__py`."""

    def plugin(code: str = CLASS, *, entry_point: str = "alerts:Plugin", **files: str) -> Discovered:
        folder = tmp_path / "alerts"
        folder.mkdir(exist_ok=True)
        manifest = f'plugin_id = "alerts"\nversion = "1"\nentry_point = "{entry_point}"\n'
        (folder / "plugin.toml").write_text(manifest)
        (folder / "alerts.py").write_text(textwrap.dedent(code))
        for name, content in files.items():
            file = folder / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(content))
        return PluginDiscovery().discover_path(folder)

    return plugin


def refused(loader: PluginLoader, plugin: Discovered) -> PluginLoadError:
    with pytest.raises(PluginLoadError) as caught:
        loader.load(plugin, 1)
    assert caught.value.fix
    assert loader.leftovers("alerts", 1) == []
    assert len(caught.value.explain().splitlines()) < 12
    return caught.value


# --- names and sources ---------------------------------------------------------------------------------


def test_a_folder_is_the_package_of_its_generation(loader: PluginLoader, plugin: Plugin) -> None:
    """The class stands in `_plugins.<id>.g<N>`, relative imports work, `__init__.py` runs as the package."""
    found = plugin(
        """\
        from plugbus import BasePlugin
        from . import STATE
        from .rules.load import LIMIT
        class Plugin(BasePlugin):
            limit = (STATE, LIMIT)
        """,
        rules__load="from ..shared import LIMIT",
        shared="LIMIT = 4",
    )
    (found.root / "__init__.py").write_text("STATE = __name__")
    cls = loader.load(found, 7)
    assert cls.__module__ == "_plugins.alerts.g7.alerts"
    assert vars(cls)["limit"] == ("_plugins.alerts.g7", 4)
    assert issubclass(cls, BasePlugin)
    assert "_plugins.alerts.g7.rules.load" in loader.modules("alerts", 7)
    loader.unload("alerts", 7)


def test_a_class_in_the_folders_init_is_loaded(loader: PluginLoader, tmp_path: Path) -> None:
    """A plugin whose class stands in `__init__.py` is the package itself."""
    (tmp_path / "hello").mkdir()
    code = CLASS.replace("BasePlugin)", 'BasePlugin, plugin_id="hello", version="1")')
    (tmp_path / "hello/__init__.py").write_text(code)
    cls = loader.load_plugin_class(PluginDiscovery().discover_path(tmp_path / "hello"), 1)
    assert cls.__module__ == "_plugins.hello.g1"
    loader.unload("hello", 1)


def test_a_single_file_is_one_module(loader: PluginLoader, tmp_path: Path) -> None:
    """A one-file plugin sees nothing of its neighbours."""
    code = CLASS.replace("BasePlugin)", 'BasePlugin, plugin_id="hello", version="1")')
    file = tmp_path / "hello.py"
    file.write_text(code)
    (tmp_path / "other.py").touch()
    found = PluginDiscovery().discover_path(file)
    assert loader.load(found, 1).__module__ == "_plugins.hello.g1.hello"
    loader.unload("hello", 1)
    file.write_text(f"from . import other\n{code}")
    with pytest.raises(PluginLoadError, match="cannot import name 'other'"):
        loader.load(found, 2)
    file.write_text(f"from .other import x\n{code}")
    with pytest.raises(PluginLoadError, match="the plugin has no module 'other'") as caught:
        loader.load(found, 3)
    assert "is a folder with a plugin.toml" in caught.value.fix


def test_a_plugin_that_was_taken_away_or_changed_is_told_as_that(
    loader: PluginLoader, plugin: Plugin, tmp_path: Path
) -> None:
    """Since it was found: what its author can do about its imports would not help."""
    file = tmp_path / "hello.py"
    line = CLASS.replace("BasePlugin)", 'BasePlugin, plugin_id="hello", version="1")')
    file.write_text(line)
    single, folder = PluginDiscovery().discover_path(file), plugin()
    file.write_text(line.replace('"1"', '"2"'))
    with pytest.raises(PluginLoadError, match="contradict each other in 'version'") as changed:
        loader.load(single, 1)
    assert changed.value.fix.endswith("if it was changed while the kernel runs, start it again")
    file.unlink()
    shutil.rmtree(tmp_path / "alerts")
    for number, found in enumerate((single, folder), 2):
        with pytest.raises(PluginLoadError, match="the plugin is gone") as gone:
            loader.load(found, number)
        assert "start the kernel again" in gone.value.fix


def test_generations_stand_side_by_side(loader: PluginLoader, plugin: Plugin) -> None:
    """Each generation has modules of its own; unloading one leaves the other whole."""
    first = loader.load(plugin(CLASS + "STATE = []\n"), 1)
    second = loader.load(plugin(CLASS + "STATE = [2]\n"), 2)
    assert sys.modules[first.__module__].STATE == []
    loader.unload("alerts", 1)
    assert loader.leftovers("alerts", 1) == []
    assert loader.modules("alerts", 2)
    assert sys.modules[second.__module__].STATE == [2]
    loader.unload("alerts", 2)


def test_two_loaders_do_not_get_in_each_others_way(loader: PluginLoader, plugin: Plugin) -> None:
    """Two kernels in one process can both load a first generation of one plugin."""
    other, found = PluginLoader(), plugin()
    one, two = loader.load(found, 1), other.load(found, 1)
    assert one is not two
    assert one.__module__ != two.__module__
    other.unload("alerts", 1)
    assert other.leftovers("alerts", 1) == []
    assert loader.modules("alerts", 1)
    loader.unload("alerts", 1)


def test_bytecode_is_neither_read_nor_written(loader: PluginLoader, plugin: Plugin) -> None:
    """A save of the same size within the same second is what runs; no bytecode file appears."""
    found = plugin(CLASS + "X = 1\n")
    file = found.root / "alerts.py"
    for number in range(1, 10):
        before = file.stat()
        file.write_text(CLASS + f"X = {number}\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        cls = loader.load(found, number)
        assert number == sys.modules[cls.__module__].X
        loader.unload("alerts", number)
    assert not list(found.root.glob("**/__pycache__"))


def test_a_generation_is_loaded_once(loader: PluginLoader, plugin: Plugin) -> None:
    """A number in use is refused, and what runs under it is not touched."""
    found = plugin()
    cls = loader.load(found, 1)
    with pytest.raises(PluginLoadError, match="generation 1 of alerts is loaded already"):
        loader.load(found, 1)
    assert sys.modules[cls.__module__]
    loader.unload("alerts", 1)


def test_many_threads_load_at_once(loader: PluginLoader, plugin: Plugin) -> None:
    """Loading and unloading of several generations side by side do not disturb each other."""
    found = plugin("from . import shared\n" + CLASS, shared="X = 1")

    def cycle(number: int) -> str:
        name = loader.load(found, number).__module__
        loader.unload("alerts", number)
        return name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(cycle, range(1, 101)))
    assert names == [f"_plugins.alerts.g{number}.alerts" for number in range(1, 101)]


# --- entry points -----------------------------------------------------------------------------------------


def test_an_entry_point_loads_under_a_generation_name(
    loader: PluginLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed plugin is loaded as every other; its own package name is never imported."""
    package = tmp_path / "acme_alerts"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = __name__")
    code = CLASS.replace("BasePlugin)", 'BasePlugin, plugin_id="acme", version="1")')
    (package / "impl.py").write_text("from . import NAME\n" + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = importlib.metadata.EntryPoint("acme", "acme_alerts.impl:Plugin", "plugbus.plugins")
    cls = loader.load_from_entry_point(point, 3)
    assert cls.__module__ == "_plugins.acme.g3.impl"
    assert sys.modules[cls.__module__].NAME == "_plugins.acme.g3"
    assert "acme_alerts" not in sys.modules
    loader.unload("acme", 3)


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_module_that_raises_is_named_with_line_and_cause(loader: PluginLoader, plugin: Plugin) -> None:
    """The plugin's own innermost line, the error and its cause; nothing half-imported stays."""
    found = plugin("from . import helper\n" + CLASS, helper="import json\n\njson.loads('{')\n")
    error = refused(loader, found)
    assert error.where == f"{found.root / 'helper.py'}:3"
    assert error.message.startswith("the import raised JSONDecodeError: ")
    assert type(error.__cause__).__name__ == "JSONDecodeError"


def test_a_long_cause_is_cut(loader: PluginLoader, plugin: Plugin) -> None:
    """An error of a thousand lines does not fill the screen; it stays whole as the cause."""
    error = refused(loader, plugin("raise ValueError('long\\n' * 1000)"))
    assert error.message.endswith("long …")
    assert len(str(error.__cause__)) == 5000


def test_a_module_that_exits_is_refused(loader: PluginLoader, plugin: Plugin) -> None:
    """`sys.exit()` in a plugin does not end the kernel."""
    assert "SystemExit" in refused(loader, plugin("import sys\nsys.exit(3)\n")).message


def test_a_syntax_error_is_named_with_its_line(loader: PluginLoader, plugin: Plugin) -> None:
    """The line is that of the file which has the error, not of the one that imports it."""
    found = plugin("from . import helper\n" + CLASS, helper="x = 1\nif x\n")
    error = refused(loader, found)
    assert error.where == f"{found.root / 'helper.py'}:2"
    assert "syntax error: expected ':'" in error.message


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ("import not_installed_anywhere", "no module 'not_installed_anywhere'", "install 'not_installed"),
        ("import rules", "no module 'rules'", "relatively: 'from . import rules'"),
        ("from .rulez import x", "the plugin has no module 'rulez'", "write rulez.py"),
        ("from ..webhooks import x", "leads out of the plugin's folder", "by events"),
        ("from plugbus import BasePlugn", "cannot import name 'BasePlugn'", "mend the code"),
    ],
)
def test_an_import_that_fails_is_told_with_what_to_do(
    loader: PluginLoader, plugin: Plugin, line: str, said: str, fix: str
) -> None:
    """A missing library, an own module imported absolutely, a mistyped one: each has its own fix."""
    found = plugin(f"\n{line}\n{CLASS}", rules="")
    error = refused(loader, found)
    assert said in error.message
    assert fix in error.fix
    assert error.where == f"{found.root / 'alerts.py'}:2"


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("import alerts.rules", "write 'from . import rules'"),
        ("import alerts.rules as r", "write 'from . import rules as r'"),
        ("from alerts.rules import LIMIT", "write 'from .rules import LIMIT'"),
        ("from alerts import rules", "write 'from . import rules'"),
        ("from alerts import STATE", "write 'from . import STATE'"),
        ("from alerts.deep.more import X", "write 'from .deep.more import X'"),
        ("import alerts", "write 'from . import …'"),
    ],
)
def test_an_absolute_import_of_itself_is_refused(
    loader: PluginLoader, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, fix: str
) -> None:
    """Where the plugin's own folder can be imported, doing so is refused with the line to write."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugin(f"def later():\n    {line}\n{CLASS}", rules="LIMIT = 1", deep__more="X = 1")
    (found.root / "__init__.py").touch()
    error = refused(loader, found)
    assert error.where == f"{found.root / 'alerts.py'}:2"
    assert "second copy of the plugin" in error.message
    assert error.fix == fix
    assert "alerts" not in sys.modules


@pytest.mark.parametrize(
    "line",
    [
        "import logging, alerts.rules as r",
        "import logging; from alerts import(rules)",
        "from \\\n alerts import rules",
        "import \\\n alerts",
        "from\talerts . rules import LIMIT",
        "from\falerts import rules",
        "# what we import\nimport alerts.rules",
        "# told from\nfrom alerts import rules",
    ],
)
@pytest.mark.parametrize("is_package", [False, True])
def test_it_is_found_however_it_is_written(
    loader: PluginLoader,
    plugin: Plugin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    is_package: bool,
) -> None:
    """Every way to write an import statement that Python knows, in a package as in a mere folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugin(f"{line}\n{CLASS}", rules="LIMIT = 1")
    if is_package:
        (found.root / "__init__.py").touch()
    assert "second copy of the plugin" in refused(loader, found).message


def test_a_plugin_within_a_package_does_not_import_itself_through_that(
    loader: PluginLoader, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package above may be imported, but not the plugin by its way."""
    found = plugin(f"from shop.alerts.rules import LIMIT\n{CLASS}", rules="LIMIT = 1")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("NAME = 'shop'")
    (found.root / "__init__.py").touch()
    inner = shutil.move(found.root, tmp_path / "shop" / "alerts")
    [moved] = PluginDiscovery().discover_from_directory(tmp_path / "shop").found
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refused(loader, moved).fix == "write 'from .rules import LIMIT'"
    (Path(inner) / "alerts.py").write_text(f"from shop import NAME\n{CLASS}")
    loader.load(moved, 2)
    loader.unload("alerts", 2)
    del sys.modules["shop"]


def test_the_line_to_write_counts_the_folders(
    loader: PluginLoader, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a subpackage the relative import needs more dots."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugin("from .deep import more\n" + CLASS, rules="X = 1", deep__more="from alerts.rules import X")
    assert refused(loader, found).fix == "write 'from ..rules import X'"


def test_imports_that_only_look_like_itself_are_fine(loader: PluginLoader, plugin: Plugin) -> None:
    """A name that really leads elsewhere, and what only a type checker sees, are let through."""
    code = (
        "from typing import TYPE_CHECKING\nimport logging\nif TYPE_CHECKING:\n    from alerts import rules\n"
    )
    loader.load(plugin(code + CLASS, logging="raise RuntimeError", rules=""), 1)
    loader.unload("alerts", 1)


THREE_STEPS = "".join(f"    async def {step}(self): ...\n" for step in ("initialize", "start", "stop"))
HALF_EVENT = "    async def handle_event(self, event): ...\n"


@pytest.mark.parametrize(
    ("body", "said", "fix"),
    [
        ("class Plugn(BasePlugin): ...", "no class 'Plugin'; it has Plugn", "did you mean 'Plugn'?"),
        ("x = 1", "no class 'Plugin'; it has no class", "class Plugin(BasePlugin)"),
        ("def Plugin(): ...", "'Plugin' is not a class, but of type function", "name the class"),
        ("class Plugin: ...", "is no plugin: it has no initialize, start, stop, shutdown", "(BasePlugin)"),
        (
            f"class Plugin:\n    plugin_id = version = status = 'x'\n    plugin_name: str\n{THREE_STEPS}",
            "is no plugin: it has no shutdown",
            "(BasePlugin)",
        ),
        (
            f"class Plugin(BasePlugin):\n{HALF_EVENT}",
            "half an IEventPlugin",
            "'def get_subscribed_events(self)'",
        ),
        (f"class Plugin(BasePlugin, IEventPlugin):\n{HALF_EVENT}", "no get_subscribed_events", "add"),
        ("class Plugin(BasePlugin, IWebPlugin): ...", "it derives from it, but no get_api_router", "add"),
        ("class Plugin(BasePlugin, IPluginHealth): ...", "half an IPluginHealth", "'async def health_check"),
        (
            "class Plugin(BasePlugin):\n    def start(self): ...",
            "Plugin.start must be async",
            "'async def start",
        ),
        (
            "class Plugin(BasePlugin):\n    async def get_subscribed_events(self): ...\n" + HALF_EVENT,
            "get_subscribed_events must not be async",
            "'def get_subscribed_events(self)'",
        ),
        (
            "class Plugin(BasePlugin, abc.ABC):\n    @abc.abstractmethod\n    def work(self): ...",
            "is abstract: work has no body",
            "write work",
        ),
        (
            'class Plugin(BasePlugin, version="2"): ...',
            "contradict each other in 'version'",
            "in one place only",
        ),
    ],
)
def test_a_class_that_is_not_what_it_claims_is_refused(
    loader: PluginLoader, plugin: Plugin, body: str, said: str, fix: str
) -> None:
    """What is missing of which interface is named, with the line of the class and one fix."""
    found = plugin(f"import abc\nfrom plugbus import *\nfrom contracts import *\n{body}\n")
    error = refused(loader, found)
    assert said in error.message
    assert fix in error.fix
    assert error.where.startswith(str(found.root / "alerts.py"))


def test_complete_classes_of_each_style_are_let_through(loader: PluginLoader, plugin: Plugin) -> None:
    """The classic style, a class without our base, a handler that is called like the classic one."""
    styles = (
        "class Plugin(BasePlugin, IEventPlugin):\n"
        + HALF_EVENT
        + "    def get_subscribed_events(self): return ['a.b']",
        "class Plugin(BasePlugin):\n    @on('a.b')\n    async def handle_event(self, e: PluginEvent): ...",
        "class Plugin(BasePlugin, version='1'):\n    async def health_check(self): ...",
        "class Plugin:\n    plugin_id = plugin_name = version = status = 'x'\n"
        + "".join(
            f"    async def {step}(self): ...\n" for step in ("initialize", "start", "stop", "shutdown")
        ),
    )
    for number, style in enumerate(styles, 1):
        found = plugin(f"from plugbus import *\n{style}\n")
        assert loader.load(found, number).__name__ == "Plugin"
        loader.unload("alerts", number)


# --- leaving ------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_unload(loader: PluginLoader, plugin: Plugin) -> None:
    """Modules, loggers with their places in the tree, cached lines and the finder are gone."""
    code = "import logging\nlog = logging.getLogger(__name__)\nlogging.getLogger(f'{__name__}.deep.er')\n"
    found = plugin(code + CLASS)
    loader.load(found, 1)
    linecache.getlines(str(found.root / "alerts.py"))
    assert loader.leftovers("alerts", 1)
    loader.unload("alerts", 1)
    loader.unload("alerts", 1)
    assert loader.leftovers("alerts", 1) == []
    assert str(found.root / "alerts.py") not in linecache.cache


def test_loggers_of_others_stay(loader: PluginLoader, plugin: Plugin) -> None:
    """Only what lies below the generation is forgotten: `g1` is not the beginning of `g10`."""
    code = "import logging\nlog = logging.getLogger(__name__)\n" + CLASS
    loader.load(plugin(code), 1)
    tenth = loader.load(plugin(code), 10)
    loader.unload("alerts", 1)
    assert logging.Logger.manager.loggerDict[tenth.__module__] is sys.modules[tenth.__module__].log
    loader.unload("alerts", 10)


def test_the_memory_of_a_generation_is_freed(loader: PluginLoader, plugin: Plugin) -> None:
    """Nothing of ours keeps the code of an unloaded generation alive, its event classes included."""
    code = (
        "import logging\nlog = logging.getLogger(__name__)\nfrom plugbus import Event\n"
        "class Happened(Event, type='alerts.happened'):\n    name: str\n"
    )
    cls = loader.load(plugin(code + CLASS), 1)
    module = weakref.ref(sys.modules[cls.__module__])
    event = weakref.ref(sys.modules[cls.__module__].Happened)
    loader.unload("alerts", 1)
    del cls
    gc.collect()
    assert module() is None
    assert event() is None


def test_a_hanging_import_is_cleaned_up_from_outside(loader: PluginLoader, plugin: Plugin) -> None:
    """`unload` does not wait for a module that hangs; when it comes back, nothing of it stays."""
    code = "import kernel_test_gate as gate\ngate.reached.set()\ngate.go.wait(30)\nfrom . import late\n"
    gate = type(sys)("kernel_test_gate")
    gate.reached, gate.go = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    sys.modules["kernel_test_gate"] = gate
    try:
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(loader.load, plugin(code + CLASS, late=""), 1)
            assert gate.reached.wait(30)
            loader.unload("alerts", 1)
            assert loader.leftovers("alerts", 1) == []
            again = loader.load(plugin(), 2)
            gate.go.set()
            with pytest.raises(PluginLoadError):
                loading.result(30)
        assert loader.leftovers("alerts", 1) == []
        assert sys.modules[again.__module__]
        loader.unload("alerts", 2)
    finally:
        del sys.modules["kernel_test_gate"]


def test_a_class_is_loaded_when_it_is_first_asked_for(loader: PluginLoader, plugin: Plugin) -> None:
    """Lazily, and once, however many ask at the same time; the newest generation is the answer."""
    found = plugin(f"import sys\nsys.ran = getattr(sys, 'ran', 0) + 1\n{CLASS}")
    assert loader.generations("alerts") == ()
    try:
        with ThreadPoolExecutor(4) as pool:
            classes = set(pool.map(lambda _: loader.get_plugin_class(found), range(8)))
        assert len(classes) == 1
        assert sys.ran == 1  # type: ignore[attr-defined]
    finally:
        del sys.ran  # type: ignore[attr-defined]
    assert loader.generations("alerts") == (1,)
    newer = loader.load_plugin_class(found, 7)
    assert loader.get_plugin_class(found) is newer
    for number in loader.generations("alerts"):
        loader.unload("alerts", number)
    assert loader.generations("alerts") == ()
    again = loader.get_plugin_class(found)
    assert (again is newer, loader.generations("alerts")) == (False, (8,))
    loader.unload("alerts", 8)


def test_what_cannot_be_loaded_safely_is_none_with_its_reason(loader: PluginLoader, plugin: Plugin) -> None:
    """Nothing is raised and nothing is left; the reason is kept until it works."""
    found = plugin(f"import sys\nif not hasattr(sys, 'mended'): raise OSError('no')\n{CLASS}")
    assert loader.load_plugin_safe(found, 1) is None
    assert "the import raised OSError: no" in str(loader.failures["alerts"])
    assert loader.leftovers("alerts", 1) == []
    sys.mended = True  # type: ignore[attr-defined]
    try:
        assert loader.load_plugin_safe(found, 2) is not None
    finally:
        del sys.mended  # type: ignore[attr-defined]
    assert loader.failures == {}
    loader.unload("alerts", 2)
