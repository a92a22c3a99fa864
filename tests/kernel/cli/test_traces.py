"""`plugbus trace show`."""

from typing import Any

from .conftest import CannedKernel, Plugbus

TRACE = "0af7651916cd43dd8448eb211c80319c"


def step(id: str, parent: str | None, name: str, start: str, **more: Any) -> dict[str, Any]:
    return {
        "trace_id": TRACE,
        "span_id": id,
        "parent_id": parent,
        "name": name,
        "kind": "internal",
        "start": f"2026-11-28T12:00:31{start}Z",
        "duration": 0.002,
        "is_error": False,
        "outcome": "",
        "attempt": 1,
        "event_id": None,
        "event_type": None,
        "group": None,
        "errors": [],
        "attributes": {},
        **more,
    }


def record(replica: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "replica": replica,
        "steps": list(steps),
        "kept": len(steps),
        "most": 20_000,
        "dropped": 0,
        "lost": 0,
        "oldest": None,
        **more,
    }


def test_a_flow_is_a_tree_in_the_order_of_time(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Also where a step began at a whole second, whose text has no fraction; retries and errors are told."""
    retried = step("c", "a", "process", ".004", outcome="retry", errors=["ValueError: no"], group="shop.bill")
    dead = step(
        "d",
        "a",
        "process",
        ".010",
        outcome="dead_letter",
        errors=["ValueError: no"],
        is_error=True,
        attempt=2,
    )
    kernel.answer(
        f"GET /admin/traces/{TRACE}", [record("one", dead, retried, step("a", "elsewhere", "publish", ""))]
    )
    head, *lines, kept = plugbus("trace", "show", TRACE).out.splitlines()
    assert head.startswith(f"trace {TRACE}, 2026-11-28 ")
    assert lines == [
        "+0.0 ms  2.0 ms  publish",
        "  +4.0 ms  2.0 ms  process shop.bill retry: ValueError: no",
        "  +10.0 ms  2.0 ms  process attempt 2 ERROR dead_letter: ValueError: no",
    ]
    assert kept == "one: 3 of at most 20,000 spans kept"


def test_where_several_kernels_took_part_each_line_tells(plugbus: Plugbus, kernel: CannedKernel) -> None:
    first = record("one", step("a", None, "publish", ".001"), dropped=7, lost=1_200)
    second = record("two", step("b", "a", "process", ".002"))
    kernel.answer("GET /admin/traces/e%2F1", [first, second])
    _, *lines, one, two = plugbus("trace", "show", "e/1").out.splitlines()
    assert lines == ["+0.0 ms  2.0 ms  publish @one", "  +1.0 ms  2.0 ms  process @two"]
    assert one == "one: 1 of at most 20,000 spans kept, 7 dropped, 1,200 not exported"
    assert two == "two: 1 of at most 20,000 spans kept"
    assert plugbus("trace", "show", "e/1", "--json").json == {
        "schema": "plugbus.trace.show/1",
        "item": [first, second],
    }
