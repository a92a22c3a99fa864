"""The tables: what was measured, the ratio, what is the least, what is aimed at."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from rounds import Result, table

from .alone import RETAIN
from .cases import FASTSTREAM, OURS, PARTITIONS, Job

Found = dict[str, Result]
HEAD = ("what", "measured (bus / peer)", "ratio", "floor", "aim")
LIMITS = {"1-1": "1 client", "50-1": "50 clients", "1-100": "1 client, pipelines of 100"}


@dataclass(frozen=True)
class Row:
    """One promise. Without a peer, the figure itself is judged."""

    what: str
    ours: float
    peer: float | None = None
    unit: str = ""
    floor: float | None = None
    aim: float | None = None
    is_less_better: bool = False

    @property
    def judged(self) -> float:
        return self.ours if self.peer is None else self.ours / self.peer

    @property
    def is_missed(self) -> bool:
        worse = operator.gt if self.is_less_better else operator.lt
        return self.floor is not None and worse(self.judged, self.floor)

    def cells(self) -> list[str]:
        measured = " / ".join(_figure(value) for value in (self.ours, self.peer) if value is not None)
        bounds = [self._bound(self.floor), self._bound(self.aim)]
        ratio = "" if self.peer is None else _ratio(self.judged)
        return [self.what, f"{measured} {self.unit}".strip(), ratio, *bounds]

    def _bound(self, value: float | None) -> str:
        if value is None:
            return ""
        unit = f" {self.unit}".rstrip() if self.peer is None else ""
        return f"{'≤ ' if self.is_less_better else ''}{value:,g}{unit}"


def report(found: Found) -> str:
    """Everything that was measured; what was not is left out."""
    rows = list(_rows(found))
    parts = [
        _limits(found),
        table(HEAD, [row.cells() for row in rows]) if rows else "",
        _conditions(found),
        "\n".join(f"below the floor: {row.what} ({_ratio(row.judged)})" for row in rows if row.is_missed),
    ]
    return "\n\n".join(part for part in parts if part)


def get(found: Found, measure: str, side: str, figure: str, **conditions: object) -> float | None:
    """The median of one figure; None: it was not measured."""
    job = Job(measure, side, 0, **conditions)  # type: ignore[arg-type]
    return found.get(job.name, {}).get(figure)


def _rows(found: Found) -> Iterator[Row]:
    for make in (_throughput, _throughput_of_peers, _processor, _drain, _publish, _latency):
        yield from make(found)
    yield from _idle(found)
    yield from _replicas(found)
    yield from _memory(found)


def _pair(
    found: Found, what: str, ours: tuple[str, int, str], peer: str, *, unit: str = "",
    floor: float | None = None, aim: float | None = None, is_less_better: bool = False, **conditions: object,
) -> Iterator[Row]:  # fmt: skip
    """A row, if both were measured under the same conditions."""
    measure, count, figure = ours
    left, right = (get(found, measure, side, figure, **conditions) for side in (f"ours-{count}", peer))
    if left is not None and right is not None:
        yield Row(what, left, right, unit, floor, aim, is_less_better)


def _throughput(found: Found) -> Iterator[Row]:
    for count in PARTITIONS:
        what = f"handled/s, 100 publishers, {partitions(count)}, against redis-py, pipelined bytes"
        aim = None if count == 8 else 0.95
        yield from _pair(found, what, ("throughput", count, "rate"), "raw-batch", floor=0.65, aim=aim)


def _throughput_of_peers(found: Found) -> Iterator[Row]:
    for count in PARTITIONS:
        what, ours = f"handled/s, 100 publishers, {partitions(count)}, against", ("throughput", count, "rate")
        if fast := best_faststream(found):
            yield from _pair(found, f"{what} FastStream", ours, fast, floor=10, aim=18)
        if count == 8:
            yield from _pair(found, f"{what} taskiq", ours, "taskiq")


def _processor(found: Found) -> Iterator[Row]:
    for count in PARTITIONS:
        what = f"processor time of one event, {partitions(count)}, against FastStream"
        ours = ("throughput", count, "cpu")
        if frugal := best_faststream(found, "cpu"):
            yield from _pair(found, what, ours, frugal, unit="µs", floor=0.1, is_less_better=True)


def _drain(found: Found) -> Iterator[Row]:
    for count in PARTITIONS:
        what, ours = f"handled/s of a backlog, {partitions(count)}, against", ("drain", count, "rate")
        yield from _pair(found, f"{what} redis-py, COUNT 500", ours, "raw-backlog", floor=0.7)
        if count == 8:
            yield from _pair(found, f"{what} FastStream in batches", ours, "faststream-batch")


def _publish(found: Found) -> Iterator[Row]:
    for count in PARTITIONS:
        what = f"published/s, one awaiting publisher, {partitions(count)}, against redis-py"
        yield from _pair(found, what, ("publish", count, "rate"), "raw-single", floor=0.7)


def _latency(found: Found) -> Iterator[Row]:
    """Of the way that FastStream is quickest in: one by one."""
    for processes, count, (figure, rival, floor) in itertools.product(
        (1, 2), PARTITIONS, (("p50", "redis-py", 1.6), ("p99", "redis-py", 2.5), ("p50", "FastStream", 1.0))
    ):
        apart = ", two processes" if processes > 1 else ""
        peer = "raw-single" if rival == "redis-py" else "faststream-single"
        yield from _pair(
            found, f"{figure} at 500/s, {partitions(count)}{apart}, against {rival}",
            ("latency", count, figure), peer, unit="µs", floor=floor, is_less_better=True,
            processes=processes,
        )  # fmt: skip


def _idle(found: Found) -> Iterator[Row]:
    for topics in (1, 100):
        where = f"100 subscriptions, {topics} topic{'s' * (topics > 1)}, 8 partitions"
        for figure, what, unit, floor in (
            ("connections", "connections of", "", 4.0),
            ("cpu", "processor while idle,", "%", 2.0),
            ("server", "the server's processor while idle,", "%", None),
        ):
            value = get(found, "subscriptions", "ours-8", figure, topics=topics)
            if value is not None:
                yield Row(f"{what} {where}", value, None, unit, floor, is_less_better=True)


def _replicas(found: Found) -> Iterator[Row]:
    one, two = (get(found, "replicas", "ours-8", "rate", processes=count) for count in (1, 2))
    if one is not None and two is not None:
        share = get(found, "replicas", "ours-8", "share", processes=2) or 0
        what = f"handled/s, handler of 1 ms, two replicas (one handled {share:.0%}) against one"
        yield Row(what, two, one, floor=1.7)


def _memory(found: Found) -> Iterator[Row]:
    name = next((name for name in found if name.startswith("memory:")), None)
    if name is None:
        return
    told = found[name]
    for part, what in (("process", "of the process (RSS)"), ("server", "of Redis (used_memory)")):
        last, first = told[f"{part}_last"], told[f"{part}_first"]
        yield Row(
            f"memory {what}, last quarter against the second", last, first, "MB", 1.1, is_less_better=True
        )
    what = f"stored after the drain, retain {RETAIN:,}"
    yield Row(what, told["stored"], None, "events", RETAIN * 1.05, is_less_better=True)
    yield Row("stored at most meanwhile", told["stored_peak"], None, "events")


def _limits(found: Found) -> str:
    rows = [
        [f"{words}, {size} B", f"{rate:,.0f}"]
        for (side, words), size in itertools.product(LIMITS.items(), (200, 4096))
        if (rate := get(found, "limit", side, "rate", size=size)) is not None
    ]
    return table(("redis-benchmark, XADD", "a second"), rows) if rows else ""


def _conditions(found: Found) -> str:
    """Throughput under all conditions, briefly."""
    rows = list[list[str]]()
    for log, size, processes, side in itertools.product(("off", "everysec"), (200, 4096), (1, 2), OURS):
        where = {"log": log, "size": size, "processes": processes}
        rate, cpu = (get(found, "throughput", side, figure, **where) for figure in ("rate", "cpu"))
        raw = get(found, "throughput", "raw-batch", "rate", **where)
        if rate is None or cpu is None or raw is None:
            continue
        fast, frugal = (best_faststream(found, figure, **where) for figure in ("rate", "cpu"))
        against = ["", ""]
        if fast and frugal:
            peer_rate = get(found, "throughput", fast, "rate", **where) or 0
            peer_cpu = get(found, "throughput", frugal, "cpu", **where) or 0
            against = [_ratio(rate / peer_rate), _ratio(cpu / peer_cpu)]
        words = f"{log}, {size} B, {processes} process{'es' * (processes > 1)}"
        rows.append([words, side.removeprefix("ours-"), f"{rate:,.0f}", _ratio(rate / raw), *against])
    head = (
        "append-only file, data",
        "partitions",
        "handled/s",
        "of redis-py",
        "of FastStream",
        "its processor time",
    )
    return table(head, rows) if rows else ""


def best_faststream(found: Found, figure: str = "rate", **conditions: object) -> str | None:
    """The way of using it that is fastest, or takes least; None: none was measured."""
    measured = {
        side: value
        for side in FASTSTREAM
        if (value := get(found, "throughput", side, figure, **conditions)) is not None
    }
    pick = max if figure == "rate" else min
    return pick(measured, key=lambda side: measured[side], default=None)


def partitions(count: int) -> str:
    return f"{count} partition{'s' * (count > 1)}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"
