"""What is told of a step that failed: what it was, where in the plugin's own code, and what to do now."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from contracts.errors import ErrorInfo, PlugbusError, PluginNotReady

from .discovered import Discovered
from .registry import PluginRecord

_FRAME = re.compile(r'^  File "(.+)", line (\d+)', re.MULTILINE)


def told(error: Exception, record: PluginRecord, step: str, deadline: float) -> ErrorInfo:
    """Of `error`, which ended `step`. Keeps what the error itself says of its place and its fix."""
    info = ErrorInfo.of(error)
    if isinstance(error, TimeoutError):
        return info.model_copy(
            update={
                "message": f"{step} took longer than {deadline:g} s",
                "place": record.metadata.file_path,
                "fix": f"make it faster, or raise [deadlines] {step} in plugbus.toml",
            }
        )
    fix = info.fix or _next_step(info, record.plugin_id)
    return info.model_copy(update={"place": _place(info, record), "fix": fix})


def traceback_of(info: ErrorInfo) -> str:
    """For who has to find the line; what we raise on purpose says in its sentence what is wrong."""
    return "" if info.matches(PlugbusError.__name__) else info.traceback


def _place(info: ErrorInfo, record: PluginRecord) -> str:
    """Where the error came out of a library, the innermost line of the plugin's own that led there."""
    frames = _FRAME.findall(info.traceback)
    if not frames or info.place != ":".join(frames[-1]) or (code := _code_of(record)) is None:
        return info.place
    own = [f"{file}:{line}" for file, line in frames if Path(file).is_relative_to(code)]
    return own[-1] if own else info.place


def _code_of(record: PluginRecord) -> Path | None:
    """The plugin's folder or file."""
    if isinstance(record.found, Discovered):
        return record.found.code
    module = sys.modules.get(record.found.__module__) if record.found is not None else None
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _next_step(info: ErrorInfo, plugin_id: str) -> str:
    if info.matches(PluginNotReady.__name__):
        return "start what it waits for; the kernel asks again by itself"
    where = f" (traceback: plugbus plugin show {plugin_id})" if traceback_of(info) else ""
    return f"mend it{where}, then: plugbus plugin start {plugin_id}"
