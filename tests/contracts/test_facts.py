"""What kernel and bus tell: built when it is needed, and right even so."""

from __future__ import annotations

import subprocess
import sys

import pytest

import contracts.messages
from contracts.event import event_schema
from contracts.messages.fact import Fact

FACTS = sorted(
    (one for one in vars(contracts.messages).values() if isinstance(one, type) and issubclass(one, Fact)),
    key=lambda fact: fact.__event_type__,
)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__event_type__)
def test_each_fact_can_be_built(fact: type[Fact]) -> None:
    """It has a JSON schema, and one object serves all handlers."""
    assert event_schema(fact)["type"] == "object"
    assert fact.__pydantic_complete__
    assert fact.__event_immutable__


def test_importing_them_builds_none() -> None:
    """A program that imports the list does not pay for all of them."""
    code = (
        "import contracts.messages as all, contracts.messages.fact as fact\n"
        "facts = [x for x in vars(all).values() if isinstance(x, type) and issubclass(x, fact.Fact)]\n"
        "print([one for one in facts if one.__pydantic_complete__])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert len(FACTS) > 25
