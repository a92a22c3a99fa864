"""`plugbus test`: pytest on a plugin's tests, with the test kit switched on."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import CommandError, ExitCode

_OPTIONS = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
_NO_TESTS = 5
"""How pytest says that it has found none."""


def run_tests(
    path: Annotated[Path, typer.Argument(help="A file of tests, or a folder with some.")] = Path(),
    select: Annotated[
        str | None, typer.Option("-k", metavar="WORDS", help="Only tests whose names match.")
    ] = None,
) -> None:
    """Run a plugin's tests with the test kit. Exit code 0 if all of them passed."""
    if not path.exists():
        raise CommandError(
            "not-found", f"'{path}' is not there", fix="plugbus test PATH", exit_code=ExitCode.NOT_FOUND
        )
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("pytest_asyncio") is None:
        raise CommandError("no-pytest", "the test kit needs pytest", fix="pip install 'plugbus[testing]'")
    options = [f"-o{name}" for name in _OPTIONS] + (["-k", select] if select else [])
    # A process of its own: what tests import and leave behind is not the command's.
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pytest", "-p", "kernel.testing", *options, str(path)], check=False
    )
    if ended.returncode == _NO_TESTS:
        raise CommandError(
            "no-tests", f"no tests in '{path}'", fix="test_….py with async def test_…(harness)"
        )
    raise typer.Exit(min(ended.returncode, 1))
