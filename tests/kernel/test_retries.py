"""How long it is waited before a plugin that failed is tried again."""

from __future__ import annotations

import pytest

from contracts.errors import ErrorInfo, PlugbusError, PluginStepFailed
from kernel.retries import pause_after


def not_ready(retry_after: float | None) -> PluginStepFailed:
    info = ErrorInfo(type="PluginNotReady", message="not yet", retry_after=retry_after)
    return PluginStepFailed("not yet", plugin_id="late", step="start", info=info)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1), (1, 2), (5, 32), (6, 60), (10, 60), (100_000, 60)])
def test_a_pause_doubles_up_to_a_minute(failures: int, seconds: float) -> None:
    """However often it has failed: a plugin may be waited for over days."""
    assert pause_after(failures, PlugbusError("no"), 1.0) == seconds
    assert pause_after(failures, not_ready(None), 1.0) == seconds


def test_a_plugin_may_say_how_long() -> None:
    """Then nothing doubles."""
    assert pause_after(9, not_ready(7.5), 1.0) == 7.5


@pytest.mark.parametrize(("error", "backoff"), [(not_ready(0.0), 1.0), (not_ready(90.0), 0.0)])
def test_there_is_always_a_pause(error: PluginStepFailed, backoff: float) -> None:
    """Whatever the plugin and the test kit say, nothing is tried in a busy loop."""
    assert 0 < pause_after(0, error, backoff) < 0.1
