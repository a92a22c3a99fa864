"""`plugbus new` and `plugbus test`: what is written works as it stands, whole, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from .conftest import Plugbus

ROOT = Path(__file__).resolve().parents[3]
STARTS = """
import asyncio
from kernel import PluginManager
from kernel.settings import load_settings

async def main():
    manager = PluginManager(load_settings(), profile="embedded")
    await manager.start()
    plugin = manager.get_plugin("order_book")
    print(plugin.status.value, plugin.version, plugin.metadata.source)
    await manager.stop("seen")

asyncio.run(main())
"""


def python(*arguments: str, cwd: Path, executable: str = sys.executable, **environment: str) -> str:
    """What a Python program prints; it must end well."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [executable, *arguments],
        cwd=cwd,
        env={**os.environ, "MYPYPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plugbus_in(folder: Path, *words: str) -> str:
    return python("-c", "import plugbus; plugbus.main()", *words, cwd=folder)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_single_file_and_its_test(plugbus: Plugbus, folder: Path) -> None:
    """Both lie in the folder that was named; the types are right and the test passes."""
    ended = plugbus("new", "plugin", "order_book", "--single-file", "--into", "my plugins")
    assert ended.code == 0, ended.err
    place = folder / "my plugins"
    assert files_below(place) == {"order_book.py", "test_order_book.py"}
    assert "plugbus test 'my plugins/test_order_book.py'" in ended.out
    python("-m", "mypy", "--strict", "--config-file=", "--cache-dir=../cache", ".", cwd=place)
    assert "1 passed" in plugbus_in(folder, "test", "my plugins")


def test_what_was_written_is_told_as_json_too(plugbus: Plugbus, folder: Path) -> None:
    """The files and the next steps."""
    item = plugbus("new", "plugin", "order_book", "--single-file", "--json").json["item"]
    assert item["files"] == ["order_book.py", "test_order_book.py"]
    assert item["next_steps"] == ["plugbus test test_order_book.py", "plugbus dev order_book.py"]


def test_a_package(plugbus: Plugbus, folder: Path) -> None:
    """It has what a distribution needs; types are right, its test passes."""
    assert plugbus("new", "plugin", "order_book").code == 0
    place = folder / "order_book"
    assert files_below(place) == {
        ".github/workflows/ci.yml",
        ".github/workflows/publish.yml",
        ".gitignore",
        "CHANGELOG.md",
        "README.md",
        "pyproject.toml",
        "src/plugbus_order_book/__init__.py",
        "src/plugbus_order_book/events.py",
        "src/plugbus_order_book/plugin.py",
        "src/plugbus_order_book/py.typed",
        "tests/test_order_book.py",
    }
    workflows = {path.stem: path.read_text() for path in place.glob(".github/workflows/*.yml")}
    jobs = {name: next(iter(yaml.safe_load(text)["jobs"].values())) for name, text in workflows.items()}
    assert "${{ matrix.python }}" in workflows["ci"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert [step["run"] for step in jobs["publish"]["steps"] if "run" in step][1:] == [
        "plugbus check --strict", "plugbus test", "python -m build",
    ]  # fmt: skip
    python("-m", "mypy", "--cache-dir=../cache", cwd=place)
    assert "1 passed" in plugbus_in(place, "test")


def test_an_installed_package_is_found_and_started(plugbus: Plugbus, folder: Path) -> None:
    """Built and installed into an empty environment, a kernel finds it by its entry point."""
    assert plugbus("new", "plugin", "order_book").code == 0
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", "../dist", cwd=folder / "order_book")
    python("-m", "venv", "--without-pip", "env", cwd=folder)
    [interpreter] = [*folder.glob("env/bin/python"), *folder.glob("env/Scripts/python.exe")]
    [packages] = [*folder.glob("env/lib/python*/site-packages"), *folder.glob("env/Lib/site-packages")]
    # Plugbus itself and what it needs are those of this environment: nothing is fetched.
    (packages / "plugbus.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    [wheel] = (folder / "dist").glob("*.whl")
    pip = ("-m", "pip", "--python", str(interpreter), "install", "-q", "--no-deps", "--no-index")
    python(*pip, str(wheel), cwd=folder)
    assert (packages / "plugbus_order_book" / "py.typed").is_file()
    printed = python(
        "-c",
        STARTS,
        cwd=folder,
        executable=str(interpreter),
        PLUGBUS_STATE_DIR=str(folder / "state"),
        PLUGBUS_PLUGINS__ORDER_BOOK__ENABLED="true",
    )
    assert printed.split("\n")[0] == "started 0.1.0 entry point order_book"


@pytest.mark.parametrize(("options", "there"), [((), "b/README.md"), (("--single-file",), "test_b.py")])
def test_nothing_is_overwritten(plugbus: Plugbus, folder: Path, options: tuple[str, ...], there: str) -> None:
    """Where one file is there, none is written."""
    (folder / there).parent.mkdir(exist_ok=True)
    (folder / there).write_text("mine")
    ended = plugbus("new", "plugin", "b", *options)
    assert ended.code == 1
    assert ended.err.splitlines() == [
        f"exists: '{there.partition('/')[0]}' is there already",
        "  fix: another name, or another folder with --into",
    ]
    assert files_below(folder) == {there}
    assert (folder / there).read_text() == "mine"


def test_a_folder_that_is_a_file_is_told(plugbus: Plugbus, folder: Path) -> None:
    """What cannot be written leaves nothing behind."""
    (folder / "taken").write_text("")
    ended = plugbus("new", "plugin", "b", "--into", "taken")
    assert (ended.code, ended.err.startswith("cannot-write: 'taken")) == (1, True), ended.err
    assert files_below(folder) == {"taken"}


def test_a_write_that_fails_half_way_is_undone(
    plugbus: Plugbus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folders that were made until then are gone again."""
    whole, opened = Path.open, []

    def full(path: Path, *rest: object, **more: object) -> object:
        if "x" in rest:
            opened.append(path)
            if len(opened) == 4:
                raise OSError(28, "No space left on device", str(path))
        return whole(path, *rest, **more)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(Path, "open", full)
    ended = plugbus("new", "plugin", "b", "--into", "deep/er")
    assert (ended.code, "No space left" in ended.err) == (1, True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "fix"),
    [
        ("Order-Book", (), "order_book"),
        ("9lives", (), "lives"),
        ("a__b", (), "a_b"),
        ("../up", (), "up"),
        ("gateway", (), "my_gateway"),
        ("queue", ("--single-file",), "my_queue"),
        ("kernel", (), "my_kernel"),
        ("plugins", ("--single-file",), "my_plugins"),
        ("class", ("--single-file",), "my_class"),
    ],
)
def test_a_bad_name_is_told_with_what_is_allowed(
    plugbus: Plugbus, folder: Path, name: str, options: tuple[str, ...], fix: str
) -> None:
    """Not an id, or one that is taken; a name that would do is offered."""
    ended = plugbus("new", "plugin", name, *options)
    assert (ended.code, ended.err.splitlines()[-1]) == (2, f"  fix: for example '{fix}'")
    assert list(folder.iterdir()) == []


def test_a_package_may_have_a_name_of_pythons(plugbus: Plugbus, folder: Path) -> None:
    """Its package has a prefix, so neither a module nor another distribution is in the way."""
    assert plugbus("new", "plugin", "queue").code == 0
    assert "1 passed" in plugbus_in(folder / "queue", "test")


def test_plugbus_test_fails_where_a_test_fails(plugbus: Plugbus, folder: Path) -> None:
    """A failed test, no test, no such folder: exit code 1, and never a traceback of ours."""
    (folder / "test_a.py").write_text("def test_it(harness):\n    assert 0\ndef test_other():\n    pass\n")
    assert plugbus("test", "test_a.py").code == 1
    assert plugbus("test", "-k", "other").code == 0
    (folder / "empty").mkdir()
    assert plugbus("test", "empty").err.startswith("no-tests: ")
    missing = plugbus("test", "nowhere")
    assert (missing.code, missing.err[:11]) == (5, "not-found: ")
