"""What the type checkers say of correct and of wrong use of the public names.

mypy reads the files by default. With `PLUGBUS_TEST_PYRIGHT=1` pyright reads them too; it is apart because
its first run may fetch a program from the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "tests/typing/right.py", ROOT / "tests/typing/wrong.py")
MARK = "# expect-error: "

Found = set[tuple[str, int]]
"""File name and line."""


def run(*command: str, folder: Path) -> str:
    """What a checker prints, with our packages where it finds them. It exits with 1: there are errors."""
    environment = {**os.environ, "MYPYPATH": str(ROOT), "NO_COLOR": "1"}
    done = subprocess.run(  # noqa: S603 - the checkers of this environment
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> Found:
    """The errors of mypy as an author runs it: strict, without a plugin for pydantic."""
    options = ["--strict", "--config-file=", "--cache-dir=cache", "--output=json"]
    printed = run(sys.executable, "-m", "mypy", *options, *map(str, FILES), folder=folder)
    messages = [json.loads(line) for line in printed.splitlines()]
    return {(Path(item["file"]).name, item["line"]) for item in messages if item["severity"] == "error"}


def pyright(folder: Path) -> Found:
    """The errors of pyright, strict."""
    for file in FILES:
        shutil.copy(file, folder)
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "reportMissingTypeStubs": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    options = ["--pythonpath", sys.executable, "--outputjson"]
    report = json.loads(run(sys.executable, "-m", "pyright", *options, folder=folder))
    return {
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1)
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    }


CHECKERS = [mypy, pyright] if os.environ.get("PLUGBUS_TEST_PYRIGHT") else [mypy]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_wrong_use_is_refused_and_correct_use_is_not(
    checker: Callable[[Path], Found], tmp_path: Path
) -> None:
    """Exactly the marked lines are errors: a wrong event, answer, option, query, step or manifest key."""
    expected = {
        (file.name, number)
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if MARK in line
    }
    assert len(expected) > 20
    assert checker(tmp_path) == expected
