"""Whether somebody handles a group, by who hosts it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from contracts.inspection import GroupState
from contracts.subscription import STANDS_IN, SubscriptionSpec, precedence_of

_STANDS_IN = precedence_of(STANDS_IN)


def state_of(spec: SubscriptionSpec, versions: Collection[Any]) -> GroupState:
    """`versions`: of its plugin on the replicas that host it, to be compared; the highest handles it."""
    if spec.options.broadcast:
        return "ephemeral"
    if not versions:
        return "dormant"
    return "sleeping" if max(versions) == _STANDS_IN else "active"
