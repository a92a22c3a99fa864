"""The kernel's commands: queries that it provides on the bus, on each replica for itself.

One file for each noun; `desk.py` is how each of them is provided and written into the audit log.
"""

from __future__ import annotations

from ..kernel import Kernel
from .capabilities import CapabilityCommands
from .configuration import ConfigurationCommands
from .dead_letters import DeadLetterCommands
from .desk import CommandDesk
from .event_diff import EventDiffCommands
from .events import EventCommands
from .explain import ExplainCommands
from .graph import GraphCommands
from .groups import GroupCommands
from .plugins import PluginCommands, plugin_details, plugin_info
from .quarantine import QuarantineCommands
from .system import SystemCommands

__all__ = ["Commands", "plugin_details", "plugin_info"]


class Commands:
    """Answers the queries of `contracts.messages`."""

    def __init__(self, kernel: Kernel) -> None:
        desk = CommandDesk(kernel)
        self._nouns = (
            PluginCommands(desk),
            QuarantineCommands(desk),
            ExplainCommands(desk),
            GroupCommands(desk),
            DeadLetterCommands(desk),
            EventCommands(desk),
            EventDiffCommands(desk),
            GraphCommands(desk),
            CapabilityCommands(desk),
            SystemCommands(desk),
            ConfigurationCommands(desk),
        )

    async def open(self) -> None:
        """Provide every command; undone by the kernel's scope."""
        for noun in self._nouns:
            await noun.open()
