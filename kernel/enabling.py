"""Whether a plugin is on: what an operator decided, else the settings, else its own default."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contracts.messages import PluginReason

from .kept import KeptFile
from .registry import PluginRecord, make_reason


class Decision(BaseModel):
    """What an operator said while the kernel ran."""

    model_config = ConfigDict(frozen=True)

    enabled: bool
    by: str
    at: datetime

    @property
    def told(self) -> str:
        word = "enable" if self.enabled else "disable"
        return f"plugbus plugin {word}, by {self.by} on {self.at:%Y-%m-%d %H:%M:%S} UTC"


class Decisions:
    """The operators' decisions (`enabled.json` in the state folder); they lie over the settings."""

    def __init__(self, state: Path) -> None:
        """Raises `SettingsError` where the file is damaged."""
        self._kept = KeptFile(state / "enabled.json", Decision, "which plugins were enabled and disabled")

    def get(self, plugin_id: str) -> Decision | None:
        return self._kept.get(plugin_id)

    def decide(self, record: PluginRecord, enabled: bool, by: str) -> bool:
        """Keep it, and put it on the record; False: it was decided so already.

        Raises `PluginStateError` where it cannot be kept; nothing has changed then.
        """
        former = self._kept.get(record.plugin_id)
        if former is not None and former.enabled == enabled == record.enabled:
            return False
        decision = Decision(enabled=enabled, by=by, at=datetime.now(UTC))
        self._kept.put(record.plugin_id, decision, "the decision about")
        record.enabled, record.enabled_by = enabled, decision.told
        return True


def disabled(plugin_id: str) -> PluginReason:
    """What stands on the record of a plugin that is not on."""
    return make_reason(
        "disabled",
        "not enabled",
        next_step=f"plugbus plugin enable {plugin_id}, or for now: plugbus plugin start {plugin_id}",
    )
