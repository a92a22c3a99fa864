"""Looking at plugins in processes of their own, each with a deadline."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pydantic import ValidationError

from contracts.errors import PluginLoadError

from ...discovered import Discovered
from .look import Look, Task

_AT_ONCE = 4
_IS_POSIX = os.name == "posix"


def look_at_all(plugins: Sequence[Discovered], deadline: float) -> "list[Look | PluginLoadError]":
    """What the code of each says, or why that cannot be known; `deadline` in seconds, for each."""
    if not plugins:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as threads:
        return list(threads.map(lambda found: _look_at(found, deadline), plugins))


def _look_at(found: Discovered, deadline: float) -> Look | PluginLoadError:
    # A session of its own, so that what the code has started ends with it.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "kernel.cli.check.look"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=_IS_POSIX,
    ) as process:
        try:
            printed, _ = process.communicate(Task.of(found).model_dump_json().encode(), deadline)
        except subprocess.TimeoutExpired:
            return _error(
                found, f"the import took longer than {deadline:g} s", "do slow work in 'initialize'"
            )
        finally:
            _end(process)
    try:
        seen = Look.model_validate_json(printed)
    except ValidationError:
        text = f"the import ended the process (exit code {process.returncode})"
        return _error(found, text, "mend the code that runs at import")
    if seen.defect:
        raise RuntimeError(seen.defect)
    return seen


def _end(process: "subprocess.Popen[bytes]") -> None:
    if _IS_POSIX:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _error(found: Discovered, text: str, fix: str) -> PluginLoadError:
    return PluginLoadError(text, where=found.metadata.file_path, fix=fix)
