"""How a command ends: exit codes, and mistakes told in at most a screen, never as a traceback."""

import enum
import sys
from collections.abc import Sequence
from typing import Any

import typer


class ExitCode(enum.IntEnum):
    """What a script can tell from the end of a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    """A setting is wrong."""
    UNREACHABLE = 4
    """No kernel, or no backend."""
    NOT_FOUND = 5
    REFUSED = 7
    """Not allowed: token, rights, policy."""
    PARTIAL = 8
    """Of several things, some were done."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """A command cannot do what it was asked for."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str = "",
        fix: str = "",
        more: Sequence[str] = (),
        exit_code: ExitCode = ExitCode.FAILED,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix
        self.more = tuple(more)
        self.exit_code = exit_code

    def explain(self) -> str:
        """What, where, how to mend it."""
        lines = [f"{self.code}: {self.message}", *(f"  - {line}" for line in self.more)]
        if self.where:
            lines.append(f"  at:  {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ReaderGone(Exception):
    """Whoever read our output has seen enough: `plugbus event tail | head`."""


def usage(message: str, fix: str) -> CommandError:
    """The command line itself is wrong."""
    return CommandError("usage", message, fix=fix, exit_code=ExitCode.USAGE)


def outcome(error: Exception) -> tuple[str, ExitCode] | None:
    """What to print and how to exit; None for what is a defect of ours and deserves its traceback."""
    if isinstance(error, CommandError):
        return error.explain(), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage_text(error), ExitCode.USAGE
    if isinstance(error, typer.Abort):
        return "", ExitCode.INTERRUPTED
    if isinstance(error, ReaderGone):
        return "", ExitCode.OK
    return _plugbus_outcome(error)


def _usage_text(error: typer.TyperException) -> str:
    text = error.format_message().replace(" (Possible options: ", " Did you mean ")
    what, _, near = text.partition(" Did you mean ")
    context = getattr(error, "ctx", None)
    help_of = f"{context.command_path if context else 'plugbus'} --help"
    return usage(what.rstrip(".:"), f"did you mean {near.rstrip(')?')}?" if near else help_of).explain()


def _plugbus_outcome(error: Exception) -> tuple[str, ExitCode] | None:
    # Importing the errors costs more than `plugbus --help` may take; none can be raised before that.
    errors: Any = sys.modules.get("contracts.errors")
    if errors is None or not isinstance(error, errors.PlugbusError):
        return None
    codes = {
        errors.SettingsError: ExitCode.CONFIG,
        errors.BusError: ExitCode.UNREACHABLE,
        errors.PluginNotFound: ExitCode.NOT_FOUND,
        errors.PermissionDeniedError: ExitCode.REFUSED,
    }
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), ExitCode.FAILED)
    return error.explain(), code
