"""A few facts about plugins that outlive the kernel: one JSON file in the state folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from contracts.errors import SettingsError

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

    def put(self, plugin_id: str, value: M) -> None:
        """Wholly or not at all. Raises `OSError`."""
        self._write({**self._kept, plugin_id: value})

    def hold(self, plugin_id: str, value: M) -> None:
        """Only for as long as this process runs: where it could not be written."""
        self._kept = {**self._kept, plugin_id: value}

    def drop(self, plugin_id: str) -> None:
        """Nothing where there is none. Raises `OSError`."""
        if plugin_id in self._kept:
            self._write({id: value for id, value in self._kept.items() if id != plugin_id})

    def _write(self, kept: dict[str, M]) -> None:
        descriptor, fresh = tempfile.mkstemp(prefix=f"{self._file.name}.", dir=self._file.parent)  # mode 600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._adapter.dump_json(kept, indent=2) + b"\n")
                file.flush()
                os.fsync(descriptor)
            Path(fresh).replace(self._file)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
        self._kept = kept
