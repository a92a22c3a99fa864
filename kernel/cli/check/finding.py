"""What is wrong with a plugin, or may be."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from contracts.errors import PlugbusError

from ...discovered import Discovered
from ..output import clean

if TYPE_CHECKING:
    from .look import Look


@dataclass(frozen=True)
class Finding:
    """One problem: `error` keeps the plugin from working, `warning` is probably not meant."""

    severity: Literal["error", "warning"]
    code: str
    text: str
    where: str = ""
    fix: str = ""

    def lines(self) -> Iterator[str]:
        """What, where and how to mend it, for people."""
        place = f" ({self.where})" if self.where else ""
        yield clean(f"  {self.severity} {self.code}: {self.text}{place}")
        if self.fix:
            yield clean(f"    fix: {self.fix}")


@dataclass
class Report:
    """What was found of one plugin."""

    plugin_id: str
    path: str
    found: Discovered | None = None
    """None where its manifest was refused."""
    findings: list[Finding] = field(default_factory=list)
    seen: "Look | None" = None
    """What its code says; None where it could not be imported."""
    written: tuple[str, ...] = ()
    """Keys that `--write` has added to its manifest."""

    def add(self, error: PlugbusError, severity: Literal["error", "warning"] = "error") -> None:
        for finding in of_error(error, severity):
            if finding not in self.findings:
                self.findings.append(finding)

    @property
    def status(self) -> str:
        kinds = {finding.severity for finding in self.findings}
        return next((kind for kind in ("error", "warning") if kind in kinds), "ok")

    def as_json(self) -> dict[str, Any]:
        return {
            "plugin_id": self.plugin_id,
            "version": self.found.metadata.version if self.found else None,
            "path": self.path,
            "status": self.status,
            "written": list(self.written),
            "findings": [vars(finding) for finding in self.findings],
        }


def of_error(error: PlugbusError, severity: Literal["error", "warning"] = "error") -> Iterator[Finding]:
    """An error as findings: a manifest's problems and a class's wrong handlers one by one."""
    problems = error.details.get("problems", ())
    if len(problems) > 1:
        for problem in problems:
            where = f"{error.where}:{problem.line}" if problem.line else error.where
            yield Finding(severity, error.code, problem.text, where, problem.fix)
    else:
        yield Finding(severity, error.code, error.message, error.where, error.fix)
    for other in error.details.get("others", ()):
        yield from of_error(other, severity)
