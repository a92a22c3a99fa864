"""From a plugin in one file to a package: the file as it is, and around it what a distribution needs."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

from contracts.errors import ManifestError

from ...discovered import Discovered
from ...discovery import PluginDiscovery
from ..errors import CommandError, usage
from .scaffold import OURS, PACKAGE, Plan, check_name, filled, words_of

_VERSION = re.compile(r'\bversion="(?P<version>[^"]+)"')
"""How the `pyproject.toml` of the package finds the version in the plugin's file."""
_OTHERS = {
    **{path: template for path, template in PACKAGE.items() if not path.endswith(("events.py", "plugin.py"))},
    "README.md": "grown/README.md",
    "CHANGELOG.md": "grown/CHANGELOG.md",
    "tests/test_{plugin_id}.py": "grown/test_plugin.py",
}


def grow(file: Path) -> Plan:
    """A package of the same plugin: id, manifest and code are those of `file`, the tests those beside it.

    Raises `ManifestError` where there is no plugin, `CommandError` where it cannot become a package so.
    """
    found = PluginDiscovery().discover_path(file)
    if not found.single_file:
        raise usage(
            f"'{file}' is not a plugin in one file", "name the file whose class line has its manifest"
        )
    check_name(found.plugin_id, single_file=False)
    source = _read(found.code)
    _check_version(found, source)
    words = words_of(found.plugin_id, single_file=False) | {
        "class_name": found.class_name,
        "name": " ".join(found.metadata.name.split()),
        "description": found.metadata.description or "A plugin for Plugbus.",
        "more_requirements": "".join(f', "{name}"' for name in _requirements(source)),
    }
    texts = filled(_OTHERS, words, found.plugin_id)
    folder, module = PurePosixPath(found.plugin_id), words["module"]
    texts[folder / f"src/{module}/plugin.py"] = source
    tests = found.code.with_name(f"test_{found.module}.py")
    if tests.is_file():
        test = _renamed(_read(tests), found.module, f"{module}.plugin")
        texts[folder / f"tests/test_{found.plugin_id}.py"] = test
    return Plan(found.plugin_id, single_file=False, files=texts)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError("cannot-read", f"'{file}' cannot be read as UTF-8: {error}") from None


def _check_version(found: Discovered, source: str) -> None:
    first = _VERSION.search(source)
    if first is None or first["version"] != found.metadata.version:
        raise ManifestError(
            "the version of the package is to be read from the class line, and is not found there",
            where=str(found.code),
            fix=f'version="{found.metadata.version}" in the class line, before any other like it',
        )


def _requirements(source: str) -> Iterator[str]:
    """The distributions whose modules the code imports, but for Plugbus itself.

    As far as they are installed here: of a module alone nobody knows in which distribution it is.
    """
    known = packages_distributions()
    for name in sorted(set(_imported(ast.parse(source))) - {*OURS, *sys.stdlib_module_names}):
        if len(distributions := set(known.get(name, ()))) == 1:
            yield from distributions


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _renamed(test: str, module: str, name: str) -> str:
    """The test with the plugin imported from where it is now."""
    was = re.escape(module)
    test = re.sub(rf"^(\s*)from {was} import ", rf"\1from {name} import ", test, flags=re.MULTILINE)
    return re.sub(rf"^(\s*)import {was}$", rf"\1import {name} as {module}", test, flags=re.MULTILINE)
