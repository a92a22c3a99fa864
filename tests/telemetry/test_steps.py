"""Spans of what the kernel does with a plugin."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from contracts.errors import PluginStepFailed
from kernel.testing import Harness
from plugbus import BasePlugin


class Shop(BasePlugin, plugin_id="shop", version="1.0.0", security_level="trusted"):
    current: Any

    async def start(self) -> None:
        Shop.current = trace.get_current_span().get_span_context()


class Broken(BasePlugin, plugin_id="broken", version="1.0.0", security_level="trusted"):
    async def start(self) -> None:
        raise ConnectionError("no database")


@pytest.fixture
def kernel_spans(spans: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    tracer = spans.provider.get_tracer("plugbus")
    monkeypatch.setattr(trace, "get_tracer", lambda *args, **kwargs: tracer)
    return spans


async def test_each_step_is_a_span_and_none_is_current_in_the_plugin(
    harness: Harness, kernel_spans: Any
) -> None:
    """Tasks that it starts live longer than the step, and are not caused by it."""
    await harness.load(Shop)
    await harness.unload("shop")
    steps = [span.name for span in kernel_spans.all if span.attributes.get("plugbus.plugin.id") == "shop"]
    assert steps[:3] == ["plugin load", "plugin initialize", "plugin start"]
    assert not Shop.current.is_valid


async def test_a_step_that_fails_is_an_error(harness: Harness, kernel_spans: Any) -> None:
    with pytest.raises(PluginStepFailed):
        await harness.load(Broken)
    [start] = kernel_spans.of("plugin start")
    assert start.status.status_code is StatusCode.ERROR
    assert start.attributes["error.type"] == "ConnectionError"
    [event] = start.events
    assert event.attributes["exception.message"] == "no database"
