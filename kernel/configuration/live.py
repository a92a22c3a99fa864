"""What operators have set while plugins ran: one file for each plugin in the state folder.

`config/<id>.json` holds the values with who set them and when, a version that counts the changes, and the
last changes. Readable by its owner only, because secrets among the values are kept as they are; in the
history they are masked.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from contracts.errors import SettingsError
from contracts.messages import ConfigurationChange

from ..settings_sources import Entry, KeyPath, nested
from ..whole_file import write_whole
from .secrets import leaves

KEPT = 50
"""Changes of one plugin that are remembered."""


class LiveValue(BaseModel):
    """One value that was set live."""

    model_config = ConfigDict(frozen=True)

    path: KeyPath
    value: JsonValue
    by: str
    at: datetime


class LiveConfiguration(BaseModel):
    """Everything that is set live for one plugin."""

    model_config = ConfigDict(frozen=True)

    version: int = 0
    configuration_version: int = 1
    """For which `configuration_version` of the plugin the values were set."""
    values: tuple[LiveValue, ...] = ()
    history: tuple[ConfigurationChange, ...] = ()
    """The newest first."""

    @property
    def tree(self) -> dict[str, JsonValue]:
        return nested(Entry(each.path, each.value, each.by) for each in self.values)

    def changed(
        self, values: dict[str, JsonValue], *, replace: bool, by: str, at: datetime
    ) -> LiveConfiguration:
        """With `values` merged in, or in place of all that was; what stays as it was keeps who set it."""
        former = {each.path: each for each in self.values}
        kept = {} if replace else dict(former)
        for path, value in leaves(values):
            if value == {}:  # says nothing about any key
                continue
            for other in [one for one in kept if _overlap(one, path)]:
                del kept[other]
            if value is not None:
                same = path in former and _equal(former[path].value, value)
                kept[path] = former[path] if same else LiveValue(path=path, value=value, by=by, at=at)
        return self.model_copy(update={"values": tuple(kept.values())})

    def recorded(self, change: ConfigurationChange, configuration_version: int) -> LiveConfiguration:
        """With `change` as the newest of its history."""
        return self.model_copy(
            update={
                "version": change.version,
                "configuration_version": configuration_version,
                "history": (change, *self.history)[:KEPT],
            }
        )


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Whether one of them is the other, or the table that it is in."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _equal(one: JsonValue, other: JsonValue) -> bool:
    return one == other and type(one) is type(other)  # true is no 1


class LiveStore:
    """Reads and writes those files. Only the holder of the state folder writes."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "config"

    def file(self, plugin_id: str) -> Path:
        return self._folder / f"{plugin_id}.json"

    def read(self, plugin_id: str) -> LiveConfiguration:
        """Raises `SettingsError` where the file is not what was written; it shows nothing of it."""
        if not plugin_id.isidentifier():  # a refused manifest: its record is named after its place
            return LiveConfiguration()
        file = self.file(plugin_id)
        try:
            return LiveConfiguration.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return LiveConfiguration()
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise SettingsError(
                f"what was set live for {plugin_id!r} cannot be read: {why}",
                where=str(file),
                fix=f"restore {file}, or remove it to give up what was set live",
            ) from None

    def write(self, plugin_id: str, live: LiveConfiguration) -> None:
        """Wholly or not at all. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self.file(plugin_id), f"{live.model_dump_json(indent=2)}\n".encode())
