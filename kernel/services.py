"""What starting and stopping plugins works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.bus import EventBus
from contracts.event import Event

from .configuration.layers import ConfigurationLayers
from .enabling import Decisions
from .handler_options import HandlerOptions
from .hosts import Host
from .mounts import WebMounts
from .offers import Notices
from .quarantine import Quarantine
from .registry import PluginRecord
from .request_chain import RequestPlugins
from .security import Audit, SecurityManager
from .settings import PluginSettings, Settings
from .start_notes import StartNotes


@dataclass(frozen=True)
class Services:
    """Joined by the composition root, the same for every plugin."""

    bus: EventBus
    settings: Settings
    mounts: WebMounts
    requests: RequestPlugins
    security: SecurityManager
    audit: Audit
    announce: Callable[[Event], None]
    settle: Callable[[float], Awaitable[object]]
    """Returns when what was announced is published, or after so many seconds."""
    make_host: Callable[[PluginRecord, int], Host]
    data_dir: Callable[[str], Path]
    configuration: ConfigurationLayers
    quarantine: Quarantine
    start_notes: StartNotes
    decisions: Decisions
    handler_options: HandlerOptions
    backoff: float = 1.0
    """Scales every pause between retries."""

    def tell(self, kind: type[Event], record: PluginRecord, reason: str, **more: object) -> None:
        """Announce what has become of a plugin."""
        fact = {
            "plugin_id": record.plugin_id,
            "version": record.metadata.version,
            "generation": record.current.number if record.current else record.loads,
            "replica": self.bus.replica,
            "reason": reason,
        }
        self.announce(kind.model_validate({**fact, **more}))

    def notices(self, record: PluginRecord) -> Notices:
        """How others are told of what it provides."""
        return Notices(
            record.plugin_id, record.metadata.version, self.bus, announce=self.announce, settle=self.settle
        )

    def policy(self, record: PluginRecord) -> PluginSettings:
        """What the operator has said of one plugin."""
        return self.settings.plugins.get(record.plugin_id) or PluginSettings()
