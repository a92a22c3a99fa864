"""What was logged last, for whoever is to help."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ..query import Query


class LogLine(BaseModel):
    """One record of the log, without what may be the data of an event."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    level: str
    logger: str
    text: str
    """What Plugbus itself says, errors by their type. Of others the place where they said something."""
    error: str = ""
    """Type and place, where one was logged."""
    plugin_id: str = ""
    """With what follows: of the event that was handled meanwhile."""
    event_id: str = ""
    event_type: str = ""
    trace_id: str = ""


class LogLines(BaseModel):
    """What one kernel keeps of its log."""

    model_config = ConfigDict(frozen=True)

    replica: str
    lines: tuple[LogLine, ...] = ()
    """The oldest first."""
    most: int = 0
    """Lines that are kept, at most; 0: this process keeps none, because its log is an application's."""
    dropped: int = 0
    """Older ones that had to go."""


class ShowLog(Query[LogLines], capability="kernel.log.show"):
    """What this kernel has logged last, without data of events and messages of errors, which quote them.

    Why a plugin could not be started, and how it is, is told in its own words, as `kernel.plugin.show` does.
    """
