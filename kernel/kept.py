"""A few facts about plugins that outlive the kernel: one JSON file in the state folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from contracts.errors import PluginStateError, SettingsError

from .whole_file import write_whole

M = TypeVar("M", bound=BaseModel)


class KeptFile(Generic[M]):
    """Plugin id → `model`, kept in `file`. Only the holder of the state folder makes one."""

    def __init__(self, file: Path, model: type[M], what: str) -> None:
        """Raises `SettingsError` where the file is there and is not what was written.

        `what` is kept there, in words.
        """
        self._file = file
        self._adapter: TypeAdapter[dict[str, M]] = TypeAdapter(dict[str, model])  # type: ignore[valid-type]
        self._kept = self._read(what)

    def _read(self, what: str) -> dict[str, M]:
        try:
            return self._adapter.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise SettingsError(
                f"{what} cannot be read: {why}",
                where=str(self._file),
                fix=f"restore {self._file}, or remove it to give up what it held",
            ) from None

    def get(self, plugin_id: str) -> M | None:
        return self._kept.get(plugin_id)

    def items(self) -> list[tuple[str, M]]:
        return sorted(self._kept.items())

    def put(self, plugin_id: str, value: M, what: str) -> None:
        """Wholly or not at all. Raises `PluginStateError`, which names `what` cannot be kept."""
        self._write_or_tell(plugin_id, {**self._kept, plugin_id: value}, what)

    def put_anyway(self, plugin_id: str, value: M, what: str, log: logging.Logger) -> None:
        """Where it cannot be written that is logged, and it holds for as long as this process runs."""
        kept = {**self._kept, plugin_id: value}
        try:
            self._write(kept)
        except OSError as error:
            why = error.strerror or error
            log.error("%s of %s is not kept: %s", what, plugin_id, why)  # noqa: TRY400 - the reason says it all
            self._kept = kept

    def drop(self, plugin_id: str, what: str) -> None:
        """Nothing where there is none. Raises as `put`."""
        if plugin_id in self._kept:
            kept = {id: value for id, value in self._kept.items() if id != plugin_id}
            self._write_or_tell(plugin_id, kept, what)

    def _write_or_tell(self, plugin_id: str, kept: dict[str, M], what: str) -> None:
        try:
            self._write(kept)
        except OSError as error:
            raise PluginStateError(
                f"{what} {plugin_id!r} cannot be kept: {error.strerror or error}",
                plugin_id=plugin_id,
                fix="make room in the state folder, or mend its permissions",
            ) from None

    def _write(self, kept: dict[str, M]) -> None:
        write_whole(self._file, self._adapter.dump_json(kept, indent=2) + b"\n")
        self._kept = kept
