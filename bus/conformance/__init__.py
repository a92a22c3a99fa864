"""The suite that every backend of the event bus passes; README.md says how to run it on a new one."""

import pytest

_PARTS = (
    "broadcast", "calls", "causes", "clocks", "dead_letters", "flow", "groups", "handover", "hard_stop",
    "inspection", "lot", "order", "ownership", "policies", "publishing", "reading", "replay", "retention",
    "rig", "stress", "suite", "universal",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

# Their asserts must be rewritten first.
from .backend import Backend, limits_for, needs  # noqa: E402
from .broadcast import Broadcast  # noqa: E402
from .calls import Calls  # noqa: E402
from .causes import Causes  # noqa: E402
from .clocks import Clocks  # noqa: E402
from .dead_letters import DeadLetters  # noqa: E402
from .flow import Flow  # noqa: E402
from .groups import Groups  # noqa: E402
from .handover import HandOver  # noqa: E402
from .hard_stop import HardStop  # noqa: E402
from .inspection import Inspection  # noqa: E402
from .lot import Lot  # noqa: E402
from .order import Order  # noqa: E402
from .ownership import Ownership  # noqa: E402
from .policies import Policies  # noqa: E402
from .publishing import Publishing  # noqa: E402
from .reading import Reading  # noqa: E402
from .replay import Replaying  # noqa: E402
from .retention import Retention  # noqa: E402
from .stress import Stress  # noqa: E402
from .universal import Universal  # noqa: E402

__all__ = ["Backend", "BusConformance", "Stress", "limits_for", "needs"]


class BusConformance(
    Universal, Order, Lot, Ownership, HandOver, HardStop, Publishing, Causes, Clocks, Groups, Retention,
    Broadcast, Policies, Flow, DeadLetters, Calls, Reading, Replaying, Inspection,
):  # fmt: skip
    """All tests. Subclass it under a name that pytest collects, and give the fixture `backend`."""
