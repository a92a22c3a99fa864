"""How the whole stands: whether work can be taken, and what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts.messages import Readiness
from contracts.plugin import PluginStatus

from .health import Trouble
from .phase import Phase
from .registry import PluginRecord

S = PluginStatus


def readiness_of(
    bus: Readiness, phase: Phase, records: Iterable[PluginRecord], troubles: Sequence[Trouble]
) -> Readiness:
    """`bus` with what the plugins add to it.

    Not ready: booting, stopping, a required plugin is not started or unhealthy, or the bus does not
    answer. Degraded: an optional plugin failed or is unhealthy, or one says that it is degraded.
    """
    if not phase.is_booted or phase.is_stopping:
        reasons = ("stopping" if phase.is_stopping else "starting", *bus.reasons)
        return bus.model_copy(update={"status": "not_ready", "reasons": reasons})
    enabled = [record for record in records if record.enabled and not record.is_asleep]
    missing = [r for r in enabled if r.metadata.criticality == "required" and r.status is not S.STARTED]
    failed = [record for record in enabled if record.status is S.ERROR and record not in missing]
    is_ready = not (missing or bus.reasons or any(trouble.is_grave for trouble in troubles))
    status = "not_ready" if not is_ready else "degraded" if failed or troubles else "ready"
    reasons = (*bus.reasons, *map(_told, (*missing, *failed)), *map(str, troubles))
    return bus.model_copy(update={"status": status, "reasons": reasons})


def _told(record: PluginRecord) -> str:
    return f"{record.plugin_id}: {record.reason.text if record.reason else record.status.value}"
