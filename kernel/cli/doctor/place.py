"""The place where a kernel would run: environment, settings, state folder."""

import logging
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contracts.errors import SettingsError

from ...quarantine import Quarantine
from ...settings import DEFAULT, Settings, load_settings
from ...state import StateFolder
from ...version import plugbus_version
from .check import Check, failed, ok, warning

LITTLE_ROOM = 100 << 20
"""Bytes of free space below which the doctor warns: audit log and plugins' data grow in the state folder."""
_LIBRARIES = ("pydantic", "fastapi", "uvicorn", "redis", "hiredis")
_OTHERS = 0o077
"""What a token must not allow to anybody but its owner."""


def check_environment() -> Check:
    libraries = {name: found for name in _LIBRARIES if (found := _installed(name))}
    python, system = platform.python_version(), platform.platform(terse=True)
    return ok(
        "environment",
        f"plugbus {plugbus_version()}, Python {python}, {system}, {platform.machine()}",
        plugbus=plugbus_version(), python=python, platform=system, libraries=libraries,
    )  # fmt: skip


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_settings(file: Path | None, overrides: dict[str, Any]) -> tuple[Settings | None, list[Check]]:
    """The settings, as long as there is nothing wrong with them, and what is to be said of them."""
    try:
        settings = load_settings(file=file, overrides=overrides)
    except SettingsError as error:
        return None, _problems(error)
    found = str(settings.file) if settings.file else "no plugbus.toml"
    chosen = [key for key, _, source in settings.describe() if source != DEFAULT]
    told = ok("settings", f"{found}; set: {', '.join(chosen) or 'nothing'}", file=found, set=chosen)
    return settings, [told]


def _problems(error: SettingsError) -> list[Check]:
    problems = error.details.get("problems") or ()
    if not problems:
        return [failed("settings", f"{error.message} ({error.where})", error.fix)]
    return [failed("settings", f"{one.text} ({one.where})", one.fix) for one in problems]


# --- the state folder ----------------------------------------------------------------------------------


def check_state(settings: Settings) -> list[Check]:
    folder = StateFolder.locate(settings.state_dir, settings.file).path
    try:
        if not folder.exists():
            return [_future_folder(folder)]
        return [_folder(folder), *_token(folder), _room(folder), *_quarantine(folder, settings)]
    except OSError as error:
        return [_unusable(folder, error.strerror or str(error))]


def _future_folder(folder: Path) -> Check:
    above = next(parent for parent in folder.parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        return _unusable(folder, f"{above} may not be written")
    return ok("state folder", f"{folder} will be made at the first start", path=str(folder), exists=False)


def _folder(folder: Path) -> Check:
    owner = folder.owner() if os.name == "posix" else ""
    with tempfile.TemporaryFile(dir=folder):
        text = f"{folder} can be written" + (f", belongs to {owner}" if owner else "")
    return ok("state folder", text, path=str(folder), exists=True, owner=owner)


def _token(folder: Path) -> list[Check]:
    token = folder / "token"
    if os.name != "posix" or not token.exists() or not token.stat().st_mode & _OTHERS:
        return []
    return [warning("state folder", f"others than its owner may read {token}", f"chmod 600 {token}")]


def _room(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    if free < LITTLE_ROOM:
        return warning("free space", f"{free >> 20} MiB at {folder}", "make room there", bytes=free)
    return ok("free space", f"{free >> 20:,} MiB at {folder}", bytes=free)


def _quarantine(folder: Path, settings: Settings) -> list[Check]:
    try:
        entries = Quarantine(folder, settings.quarantine, logging.getLogger("plugbus.doctor")).entries()
    except SettingsError as error:
        return [failed("quarantine", error.message, error.fix)]
    return [
        warning(
            "quarantine",
            f"{entry.plugin_id} is not started: {entry.reason}",
            f"plugbus plugin quarantine release {entry.plugin_id}",
            plugin_id=entry.plugin_id,
        )
        for entry in entries
    ]


def _unusable(folder: Path, why: str) -> Check:
    fix = "name a folder that you may write: --state-dir FOLDER, or PLUGBUS_STATE_DIR"
    return failed("state folder", f"{folder} cannot be used: {why}", fix, path=str(folder))
