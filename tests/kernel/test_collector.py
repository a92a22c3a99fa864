"""How often garbage is looked for while much is made that stays."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kernel.collector import RARELY, rarely_collected


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield 700, 10, 10
    gc.set_threshold(*before)


def test_it_goes_on_rarely_and_is_restored(usual: tuple[int, int, int]) -> None:
    """Also where the block fails, and where blocks overlap: the last one to leave restores it."""
    first, second = rarely_collected(), rarely_collected()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (RARELY, *usual[1:])
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual
    with pytest.raises(LookupError), rarely_collected():
        raise LookupError
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("own", [0, RARELY * 2])
def test_whoever_collects_never_or_rarer_is_left_alone(own: int) -> None:
    """An application that has switched it off, or tuned it, finds it as it was, inside as well."""
    gc.set_threshold(own, 10, 10)
    with rarely_collected():
        assert gc.get_threshold()[0] == own
    assert gc.get_threshold()[0] == own


def test_what_is_set_meanwhile_stays() -> None:
    """A plugin that sets it while it is imported means it."""
    with rarely_collected():
        gc.set_threshold(1_234, 10, 10)
    assert gc.get_threshold()[0] == 1_234


def test_the_kernel_is_imported_without_looking_for_garbage() -> None:
    """All that is made then stays: the search took a quarter of the time."""
    code = (
        "import gc, pydantic, kernel\n"
        "gc.collect(); gc.callbacks.append(lambda phase, told: print(phase))\n"
        "threshold = gc.get_threshold(); kernel.PluginManager; assert gc.get_threshold() == threshold"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("start") < 10  # else some sixty
