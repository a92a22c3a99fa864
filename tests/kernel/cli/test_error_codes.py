"""`plugbus explain`: every error of ours has its text, and is found by code and by name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from contracts import errors

from .conftest import Plugbus

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("contracts.errors", "kernel", "bus")
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("contracts", "kernel", "bus")
    for file in (ROOT / package).glob("*.py")
    if file.name != "__init__.py"
)
ERRORS = sorted(
    {
        value
        for module in (*PACKAGES, *MODULES)
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type) and issubclass(value, errors.PlugbusError)
    },
    key=lambda cls: cls.code,
)
"""All that there are: those that the kernel and the bus define themselves too."""


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.code)
def test_every_error_is_explained(plugbus: Plugbus, cls: type[errors.PlugbusError]) -> None:
    """Meaning, cause, example and fix, each in a sentence or a line; by its code or its class."""
    item = plugbus("explain", cls.code, "--json").json["item"]
    assert item == plugbus("explain", cls.__name__, "--json").json["item"]
    assert item["error"] == cls.__name__
    for part in ("meaning", "cause", "example", "fix"):
        assert item[part], part
        assert not any(mark in item[part] for mark in ("Cause: ", "Example: ", "Fix: ")), item[part]


def test_an_error_is_told_in_a_few_lines(plugbus: Plugbus) -> None:
    """As it is printed, with its colon, it is found too."""
    ended = plugbus("explain", "bus-full:")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == [
        "bus-full",
        "The",
        "cause:",
        "example:",
        "fix:",
    ]


def test_all_are_listed(plugbus: Plugbus) -> None:
    """One line each below the names of the columns."""
    lines = plugbus("explain").out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == [cls.code for cls in ERRORS]
    assert len(plugbus("explain", "--json").json["items"]) == len(ERRORS)


def test_an_unknown_code_is_told(plugbus: Plugbus) -> None:
    """Exit code 5, with the code that was probably meant."""
    ended = plugbus("explain", "bus-ful")
    assert (ended.code, ended.err.splitlines()[-1]) == (5, "  fix: did you mean 'bus-full'?")


def test_the_commands_that_are_advised_are_there(plugbus: Plugbus) -> None:
    """Whoever follows an advice is not told that there is no such command."""
    advice = [one["fix"] for one in plugbus("explain", "--json").json["items"]]
    commands = {
        tuple(words) for text in advice for words in re.findall(r"`plugbus ([a-z]+) ?([a-z]+)?", text)
    }
    assert len(commands) > 8
    for words in commands:
        assert plugbus(*filter(None, words), "--help").code == 0, words
