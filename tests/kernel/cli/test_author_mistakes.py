"""Ten mistakes that authors make: what each is told, with its place and the fix, in what fits a screen."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from contracts.errors import NoProvider
from kernel.testing import Harness
from plugbus import BasePlugin, Event, Query, RetryPolicy, on

from .conftest import Plugbus

HEAD = """\
from typing import TYPE_CHECKING
from pydantic import BaseModel
from plugbus import BasePlugin, Event, on
if TYPE_CHECKING:
    from decimal import Decimal as OrderPlaced
"""
PLUGIN = """\
{more}
class Scoring(BasePlugin, plugin_id="scoring", version="1.0", security_level="trusted"{keys}):
    @on
    {method}
"""
GOOD = 'class Placed(Event, type="orders.placed"):\n    total: float\n'
HANDLER = "async def score(self, event: Placed) -> None: ..."

MISTAKES: dict[str, tuple[dict[str, str], str, str, str]] = {
    "a class that is no plugin": (
        {"hello.py": "class Hello:\n    pass\n"},
        "error manifest: no plugin found in 'hello.py', only Hello, which derives from no BasePlugin",
        "hello.py)",
        'fix: class Hello(BasePlugin, plugin_id="…", version="1.0.0"):',
    ),
    "a handler without a type": (
        {"scoring.py": HEAD + PLUGIN.format(more="", keys="", method="async def score(self, event): ...")},
        "error handler-definition: handler 'score' has no event type",
        "scoring.py:8)",
        "fix: annotate its parameter: async def score(self, event: OrderPlaced)",
    ),
    "a type that is no event": (
        {"scoring.py": HEAD + PLUGIN.format(
            more="class Placed(BaseModel):\n    total: float\n", keys="", method=HANDLER)},
        "takes Placed, which is not an event (Placed derives from BaseModel)",
        "scoring.py:10)",
        'fix: class Placed(Event, type="…")',
    ),
    "a type that is only there for the type checker": (
        {"scoring.py": HEAD + PLUGIN.format(
            more="", keys="", method="async def score(self, event: 'OrderPlaced') -> None: ...")},
        "has an annotation that cannot be resolved: name 'OrderPlaced' is not defined",
        "scoring.py:8)",
        "fix: import the class normally: imports under TYPE_CHECKING are not there at run time",
    ),
    "a handler that is not async": (
        {"scoring.py": HEAD + PLUGIN.format(
            more=GOOD, keys="", method=HANDLER.removeprefix("async "))},
        "error handler-definition: handler 'score' is not async",
        "scoring.py:10)",
        "fix: async def score(…)",
    ),
    "one type that two declare": (
        {
            f"p/{id}.py": HEAD + PLUGIN.format(
                more=GOOD.replace("float", kind), keys="", method=HANDLER
            ).replace('"scoring"', f'"{id}"')
            for id, kind in (("one", "float"), ("two", "str"))
        },
        "'orders.placed' version 1 is declared by 'one' and by 'two', and differently: total is number here",
        "two.py)",
        "fix: import one class from where it is published, or raise version= on the changed one",
    ),
    "two that need each other": (
        {
            f"p/{id}.py": HEAD + PLUGIN.format(
                more=GOOD, keys=f', dependencies=["{other}"]', method=HANDLER
            ).replace('"scoring"', f'"{id}"')
            for id, other in (("one", "two"), ("two", "one"))
        },
        "error circular-dependency: depends on itself: one → two → one",
        "one.py)",
        "fix: let one of them speak to the other by events, or make it an optional dependency",
    ),
    "another version of Plugbus": (
        {"scoring.py": HEAD + PLUGIN.format(
            more=GOOD, keys=', requires_plugbus=">=99,<100"', method=HANDLER)},
        "error version-conflict: needs plugbus >=99,<100, this is ",
        "scoring.py)",
        'fix: pip install "plugbus>=99,<100", or write requires_plugbus = ">=',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "text", "place", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_check_tells_what_where_and_how_to_mend_it(
    plugbus: Plugbus, folder: Path, files: dict[str, str], text: str, place: str, fix: str
) -> None:
    """Without running the plugin; exit code 1."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(content))
    ended = plugbus("check", next(iter(files)).partition("/")[0])
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    [told, *_] = [number for number, line in enumerate(lines) if text in line]
    assert lines[told].endswith(place), lines[told]
    assert fix in lines[told + 1]
    assert len(lines) <= 24


class Placed(Event, type="orders.placed"):
    """Somebody has bought something."""

    order_id: int
    total: float


class Price(Query[float], capability="prices.query"):
    """What does it cost?"""


class Told(Event, type="mistakes.told"):
    """Make one."""

    which: str


class Mistaken(BasePlugin, plugin_id="mistaken", version="1.0", security_level="trusted"):
    @on(retry=RetryPolicy(attempts=1))
    async def make(self, event: Told) -> None:
        if event.which == "event":
            await self.context.publish(Placed(order_id="x-secret", totl=1.5))  # type: ignore[arg-type,call-arg]
        await self.context.request(Price())


@pytest.mark.parametrize(
    ("which", "kind", "text", "fix"),
    [
        (
            "event", "ValidationError",
            ("Placed: order_id: Input should be a valid integer, unable to parse string as an integer; "
             "total: Field required; totl: unknown field, did you mean 'total'?"),
            "",
        ),
        ("request", NoProvider.__name__, "nobody provides 'prices.query'", "plugbus capability list"),
    ],
)  # fmt: skip
async def test_a_mistake_at_run_time_is_a_dead_letter_that_says_all(
    harness: Harness, which: str, kind: str, text: str, fix: str
) -> None:
    """An event that does not fit names each field, what was meant, and never a value; a request that nobody
    answers says how to find out who could. The place of the first is the author's line."""
    await harness.load(Mistaken)
    await harness.publish(Told(which=which))
    await harness.quiet()
    [letter] = await harness.dead_letters()
    assert letter.error is not None
    assert letter.error.matches(kind)
    assert letter.error.message == text
    assert fix in letter.error.fix
    assert "x-secret" not in letter.error.message
    if which == "event":
        assert Path(__file__).name in letter.error.place
