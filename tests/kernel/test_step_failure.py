"""What is told of a plugin that fails in one of its steps: what, where in its own code, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import PermissionDeniedError, PluginStepFailed
from contracts.messages import ShowPlugin
from kernel.testing import Harness
from plugbus import BasePlugin, PluginNotReady

LIBRARY = """
import json
from plugbus import BasePlugin

class Broken(BasePlugin, plugin_id="broken", version="1.0.0", security_level="trusted"):
    async def start(self):
        self.read()

    def read(self):
        json.loads("{nope")
"""


async def test_an_error_out_of_a_library_is_told_with_the_line_of_the_plugin(
    harness: Harness, tmp_path: Path
) -> None:
    """Its own innermost line, where the traceback is, and what to do; gone once it starts."""
    file = tmp_path / "broken.py"
    file.write_text(LIBRARY)
    with pytest.raises(PluginStepFailed) as raised:
        await harness.load(file)
    info = harness.plugin("broken")
    assert info.reason is not None
    assert info.reason.place == raised.value.where == f"{file}:10"
    says = "mend it (traceback: plugbus plugin show broken), then: plugbus plugin start broken"
    assert info.reason.next_step == raised.value.fix == says
    shown = await harness.request(ShowPlugin(plugin_id="broken"))
    assert "self.read()" in shown.traceback
    assert shown.traceback.rstrip().endswith(info.reason.text)
    file.write_text(LIBRARY.replace("{nope", "{}"))
    await harness.manager.start_plugin("broken")
    assert (await harness.request(ShowPlugin(plugin_id="broken"))).traceback == ""


@pytest.mark.parametrize(
    ("raises", "fix"),
    [
        (PluginNotReady("the database is starting", retry_after=99), "the kernel asks again by itself"),
        (PermissionDeniedError("not that file", fix="ask for read_data"), "ask for read_data"),
        (PermissionDeniedError("not that file"), "mend it, then: plugbus plugin start own"),
    ],
)
async def test_what_says_itself_what_to_do_has_no_traceback(
    harness: Harness, raises: Exception, fix: str
) -> None:
    """An error of ours is a sentence with a fix; who is not ready is only waited for."""

    class Own(BasePlugin, plugin_id="own", version="1", security_level="trusted"):
        async def initialize(self) -> None:
            raise raises

    with pytest.raises(PluginStepFailed):
        await harness.load(Own)
    shown = await harness.request(ShowPlugin(plugin_id="own"))
    assert shown.traceback == ""
    assert shown.reason is not None
    assert fix in shown.reason.next_step
