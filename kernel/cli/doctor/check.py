"""What the doctor says of one thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_STATUS_WIDTH, _NAME_WIDTH = 8, 13


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `fix` where it is not in order."""

    name: str
    status: Literal["ok", "warning", "failed"]
    text: str
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further facts, for programs."""

    def line(self) -> str:
        fix = f"  fix: {self.fix}" if self.fix else ""
        return f"{self.status:<{_STATUS_WIDTH}}{self.name:<{_NAME_WIDTH}}{self.text}{fix}"


def ok(name: str, text: str, **details: Any) -> Check:
    return Check(name, "ok", text, details=details)


def warning(name: str, text: str, fix: str = "", **details: Any) -> Check:
    return Check(name, "warning", text, fix, details)


def failed(name: str, text: str, fix: str, **details: Any) -> Check:
    return Check(name, "failed", text, fix, details)
