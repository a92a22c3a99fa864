"""A plugin of the check: writes down the id of each webhook that it handles, and forgets none."""

import os

from plugbus import BasePlugin, PluginEvent, on


class Tally(
    BasePlugin,
    plugin_id="tally",
    version="1.0.0",
    security_level="trusted",
    required_permissions=["read_data", "write_data"],
):
    """One line for each; it is on the disk before the event counts as handled."""

    @on("github.**")
    async def count(self, event: PluginEvent) -> None:
        with (self.context.data_dir / "seen").open("a", encoding="utf-8") as file:
            file.write(f"{event.envelope.id}\n")
            file.flush()
            os.fsync(file.fileno())
