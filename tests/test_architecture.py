"""The rooms and the doors between them: what import-linter cannot see is read from the code here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("contracts", "bus", "kernel", "plugins")
ALLOWED = {
    "contracts": {"pydantic", "pydantic_core", "packaging"},
    "bus": {"contracts", "pydantic", "pydantic_core"},
    "kernel": {"contracts", "pydantic", "pydantic_core", "packaging", "tomli", "yaml"},
}
"""What a package may import beside the standard library and itself."""

EXTRA = {
    "bus/conformance/": {"pytest", "hypothesis"},
    "bus/redis_streams/": {"redis", "hiredis"},
    "bus/tracing.py": {"opentelemetry"},  # its API alone
    "kernel/tracing.py": {"opentelemetry"},
    "kernel/records.py": {"opentelemetry"},
    "kernel/configuration/schema.py": {"jsonschema", "referencing"},
    "kernel/state.py": {"platformdirs"},
    "kernel/manager.py": {"starlette"},
    "kernel/embed.py": {"starlette", "fastapi"},
    "kernel/embedded_edge.py": {"starlette"},
    "kernel/cli/": {"typer", "rich", "httpx", "tomlkit", "plugbus"},
    "kernel/testing.py": {"pytest", "httpx", "psutil"},
}
"""What single files may import in addition."""


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Top-level names that `file` imports absolutely, with the line; TYPE_CHECKING imports included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


def allowed_in(relative: str) -> set[str]:
    package = relative.partition("/")[0]
    extra = {name for prefix, names in EXTRA.items() if relative.startswith(prefix) for name in names}
    return ALLOWED[package] | extra | {package, "__future__"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_each_package_imports_only_what_the_design_allows(package: str) -> None:
    """A library or a package of ours that is not listed for a room is an error, with its place."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for name, line in imported(file)
        if name not in allowed_in(file.relative_to(ROOT).as_posix())
    ]
    assert wrong == []


def test_plugins_import_the_door_contracts_and_themselves() -> None:
    """A plugin that ships with Plugbus uses nothing that another author could not use."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sorted((ROOT / "plugins").rglob("*.py"))
        for name, line in imported(file)
        if name in {"bus", "kernel", "plugins", "tests"}
    ]
    assert wrong == []


def test_nobody_imports_tests_or_deploy() -> None:
    """They become importable in editable installs, and must never be."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for name, line in imported(file)
        if name in {"tests", "deploy"}
    ]
    assert wrong == []


def modules_named_in(file: Path) -> Iterator[tuple[str, int]]:
    """Full names of the modules of ours that `file` imports, relative imports resolved, with the line."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize(
    ("folder", "foreign"),
    [
        ("bus", ("bus.memory.", "bus.conformance.")),  # what every backend shares
        ("bus/policy", ("bus.memory.", "bus.conformance.")),
        ("bus/memory", ("bus.conformance.",)),
        ("bus/conformance", ("bus.memory.",)),  # it judges whatever it is given
    ],
)
def test_the_shared_part_the_backends_and_the_suite_stay_apart(folder: str, foreign: tuple[str, ...]) -> None:
    """Of each file that there is, so that a new one cannot be forgotten."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sorted((ROOT / folder).glob("*.py"))
        for name, line in modules_named_in(file)
        if f"{name}.".startswith(foreign)
    ]
    assert wrong == []


def test_the_door_knows_contracts_and_the_command_line_only() -> None:
    """`plugbus.py` may import contracts, and `kernel.cli` inside `main`."""
    names = {name for name, _ in imported(ROOT / "plugbus.py")} - set(sys.stdlib_module_names)
    assert names == {"contracts", "kernel"}


def test_every_package_is_typed_and_marked() -> None:
    """Type checkers see our annotations, and the door can tell our packages from others."""
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
        assert f'__plugbus__ = "{package}"' in (ROOT / package / "__init__.py").read_text(encoding="utf-8")


def loaded_after(statement: str) -> set[str]:
    """Names in `sys.modules` after running `statement` in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own statement
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_contracts_import_nothing_heavy() -> None:
    """Authors' modules import the flat list; that must not bring a web framework or the kernel along."""
    heavy = {"fastapi", "starlette", "uvicorn", "httpx", "kernel", "bus", "pydantic_settings", "typer"}
    assert loaded_after("import plugbus; plugbus.Event") & heavy == set()


def test_the_door_looks_round_once() -> None:
    """Every plugin imports the flat list: only the first name asks whether the packages are ours."""
    loaded_after(
        "import plugbus; plugbus.Event; plugbus._PACKAGES = ('nobody',); from plugbus import on, Query"
    )


def test_the_flat_lists_are_one() -> None:
    """`plugbus` hands on exactly what `contracts` lists, and every name is there."""
    import contracts
    import plugbus

    assert plugbus.__all__ == contracts.__all__
    for name in plugbus.__all__:
        assert getattr(plugbus, name) is getattr(contracts, name)


@pytest.mark.parametrize(
    "file", ["bus/tracing.py", "kernel/tracing.py", "kernel/records.py", "plugins/gateway/tracing.py"]
)
def test_spans_are_made_by_the_api_alone(file: str) -> None:
    """Who gives it a provider is the application's or the telemetry plugin's business."""
    found = {
        node.module
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("opentelemetry")
    }
    assert found <= {"opentelemetry", "opentelemetry.trace"}
