"""Retry rules: what becomes of a delivery, by what its handler raised."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from bus.policy.retry import Again, Pause, judge
from contracts.bus import Dead, Discarded, Parked, RetryPolicy, RetryRule
from contracts.errors import ErrorInfo, InvalidEvent, StormDetected, UndecodableEvent, VersionAhead
from contracts.event import EventResult
from contracts.message import PluginEvent

RULES = (
    RetryRule(errors=("pkg.Odd",), action="discard"),
    RetryRule(errors=("ConnectionError",), action="retry", delay=0.25),
    RetryRule(errors=("ValueError",), action="dead_letter"),
    RetryRule(errors=("PermissionError",), action="pause"),
    RetryRule(errors=("TimeoutError", "KeyError"), action="retry_later"),
    RetryRule(errors=("Exception",), action="discard"),
)
POLICY = RetryPolicy(attempts=3, first_delay=2, factor=3, jitter=0, rules=RULES)
OSERROR = ("OSError", "Exception")


def error(type: str, *bases: str, retry_after: float | None = None) -> ErrorInfo:
    return ErrorInfo(type=type, bases=bases, message="no", retry_after=retry_after)


@pytest.mark.parametrize(
    ("info", "attempt", "waited", "wanted"),
    [
        (error("ConnectionError", *OSERROR), 1, 0.0, Again(0.25)),
        (error("ConnectionResetError", "ConnectionError", *OSERROR), 2, 0.75, Again(0.25)),
        (error("ConnectionError"), 2, 0.76, "parked"),
        (error("ConnectionError"), 3, 0.0, "attempts"),
        (error("ConnectionError", retry_after=0.5), 1, 0.5, Again(0.5)),
        (error("ConnectionError", retry_after=7), 1, 0.0, "parked"),
        (error("httpx.TimeoutError"), 1, 0.0, "parked"),
        (error("KeyError"), 3, 0.0, "attempts"),
        (error("ValueError"), 1, 0.0, "asked"),
        (error("ValueError"), 3, 0.0, "asked"),
        (error("pkg.Odd", "ValueError"), 1, 0.0, Discarded("Odd: no")),
        (error("other.Odd", "ValueError"), 1, 0.0, "asked"),
        (error("pkg.Odd"), 3, 0.0, Discarded("Odd: no")),
        (error("PermissionError", *OSERROR), 1, 0.0, Pause()),
        (error("PermissionError", *OSERROR), 3, 0.0, Pause()),
        (error("ZeroDivisionError"), 1, 0.0, Discarded("ZeroDivisionError: no")),
        (error("asyncio.CancelledError"), 1, 0.0, Discarded("CancelledError: no")),
        (ErrorInfo.of(InvalidEvent("no")), 1, 0.0, "schema"),
        (ErrorInfo.of(UndecodableEvent("no")), 1, 0.0, "decode"),
        (ErrorInfo.of(VersionAhead("no")), 3, 0.0, "version_ahead"),
        (ErrorInfo.of(StormDetected("no")), 3, 0.0, Pause(is_storm=True)),
    ],
)
def test_the_first_rule_that_fits_decides(info: ErrorInfo, attempt: int, waited: float, wanted: Any) -> None:
    """By error, attempts and time waited; never beyond the attempts, nor where nothing can be mended."""
    found = judge(POLICY, info, attempt, now=100, random=Random(1), waited=waited)  # noqa: S311 - to be repeatable
    if wanted == "parked":
        assert isinstance(found, Parked)
        assert found.due == 100 + max(2 * 3 ** (attempt - 1), info.retry_after or 0)
    elif isinstance(wanted, str):
        assert found == Dead(wanted, info)
    else:
        assert found == wanted


class Script:
    """A handler that does what its script says, attempt by attempt, and notes when."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.starts: list[tuple[float, int, int]] = []
        self.begin = asyncio.get_running_loop().time()

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        number = event.data["n"]  # type: ignore[call-overload,index]
        now = asyncio.get_running_loop().time() - self.begin
        self.starts.append((round(now, 3), number, event.attempt))  # type: ignore[arg-type]
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif isinstance(step, Exception):
            raise step
        return step if isinstance(step, EventResult) else None

    @property
    def seen(self) -> list[tuple[int, int]]:
        return [(number, attempt) for _, number, attempt in self.starts]


def rules(action: str = "retry", delay: float = 0.0, **more: Any) -> RetryPolicy:
    rule = RetryRule(errors=(ConnectionError,), action=action, delay=delay)  # type: ignore[arg-type]
    return RetryPolicy(jitter=0, rules=(rule,), **more)


def down() -> ConnectionError:
    return ConnectionRefusedError("carrier does not answer")


async def test_a_retry_in_place_waits_and_starts_again(rig: Any, bus: Any) -> None:
    """Attempts are counted, nothing is parked, and the next event of the key waits for it."""
    script = Script(down(), down())
    await rig.on(bus, script, retry=rules(delay=0.3))
    await rig.publish(bus, 1, 2, key="k")
    await bus.quiet()
    assert script.starts == [(0.0, 1, 1), (0.3, 1, 2), (0.6, 1, 3), (0.6, 2, 1)]
    info = await rig.info()
    assert (info.handled, info.failed, info.dead) == (2, 2, 0)


async def test_other_lanes_go_on_while_one_waits_in_place(rig: Any, bus: Any) -> None:
    """The lane is held, and its key; no other."""
    script = Script(down())
    await rig.on(bus, script, retry=rules(delay=0.5), concurrency=2)
    await rig.publish(bus, 1, 2, key="slow")
    await rig.publish(bus, 3, key="quick")
    await bus.quiet()
    assert script.starts == [(0.0, 1, 1), (0.0, 3, 1), (0.5, 1, 2), (0.5, 2, 1)]


async def test_after_a_second_in_place_a_delivery_is_parked(rig: Any, bus: Any) -> None:
    """With the backoff of the policy; taken again, it may wait in place for another second."""
    script = Script(*[down() for _ in range(5)])
    await rig.on(bus, script, retry=rules(delay=0.4, attempts=6, first_delay=10, factor=1))
    await rig.publish(bus, 1)
    await bus.quiet()
    assert [start for start, _, _ in script.starts] == [0.0, 0.4, 0.8, 10.8, 11.2, 11.6]
    assert [attempt for _, _, attempt in script.starts] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("lanes", [1, 3])
async def test_attempts_in_place_are_no_more_than_the_policy_says(rig: Any, bus: Any, lanes: int) -> None:
    """Also where there is no pause between them, and however many they are."""
    script = Script(*[down() for _ in range(3_000)])
    await rig.on(bus, script, retry=rules(attempts=2_000), concurrency=lanes)
    await rig.publish(bus, 1, key="k")
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert (len(script.starts), letter.attempts, letter.reason) == (2_000, 2_000, "attempts")


async def test_the_handler_timeout_does_not_count_the_wait_in_place(rig: Any, bus: Any) -> None:
    """Each attempt has its own time, and runs out of it by itself."""
    script = Script(down(), 0.3, down(), 9.0)
    await rig.on(bus, script, timeout=0.4, retry=rules(delay=0.9, attempts=2))
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert script.starts == [(0.0, 1, 1), (0.9, 1, 2), (1.2, 2, 1), (2.1, 2, 2)]
    assert letter.error.matches("HandlerTimeout")


async def test_a_discarded_delivery_names_the_error(rig: Any, bus: Any, recorder: Any) -> None:
    """It is counted and announced; nothing lies among the dead letters."""
    told = recorder()
    await rig.on(bus, told, "bus.discarded", group="x.told")
    await rig.on(bus, Script(down()), retry=rules("discard"))
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    [event] = told.events
    info = await rig.info()
    assert "ConnectionRefusedError: carrier does not answer" in event.data["reason"]
    assert (info.discarded, info.handled, info.dead) == (1, 1, 0)


async def test_a_dead_letter_rule_ends_it_at_once(rig: Any, bus: Any) -> None:
    """After one attempt, with the error."""
    await rig.on(bus, Script(down()), retry=rules("dead_letter"))
    await rig.publish(bus, 1, 2)
    await bus.quiet()
    [letter] = await bus.dead_letters()
    assert (letter.reason, letter.attempts) == ("asked", 1)
    assert letter.error.matches("ConnectionError")


async def test_a_pause_rule_pauses_the_group_until_it_is_resumed(rig: Any, bus: Any) -> None:
    """Nothing else of it starts; then the delivery has its next attempt, before the rest of its key."""
    script = Script(down())
    await rig.on(bus, script, retry=rules("pause"))
    await rig.publish(bus, 1, 2, key="k")
    await asyncio.sleep(1_000)
    info = await rig.info()
    assert script.seen == [(1, 1)]
    assert "carrier does not answer" in info.paused
    assert await bus.resume_group("shop.handle")
    await bus.quiet()
    assert script.seen == [(1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_pause_while_a_delivery_waits_in_place_takes_it_back(rig: Any, bus: Any, lanes: int) -> None:
    """It does not start in a paused group; its attempts are kept."""
    script = Script(down())
    await rig.on(bus, script, retry=rules(delay=0.5), concurrency=lanes)
    await rig.publish(bus, 1, 2, key="k")
    await asyncio.sleep(0.1)
    await bus.pause_group("shop.handle")
    await asyncio.sleep(10)
    assert script.seen == [(1, 1)]
    assert (await rig.info()).in_flight == 0
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert script.starts[1:] == [(10.1, 1, 2), (10.1, 2, 1)]


async def test_an_attempt_that_fails_in_a_paused_group_is_not_repeated_in_place(rig: Any, bus: Any) -> None:
    """What ran when the group was paused finishes, and that is all."""

    async def handle(event: PluginEvent) -> None:
        seen.append(event.attempt)
        if event.attempt == 1:
            await bus.pause_group("shop.handle")
            raise down()

    seen: list[int] = []
    await rig.on(bus, handle, retry=rules(delay=0.1))
    await rig.publish(bus, 1)
    await asyncio.sleep(10)
    assert seen == [1]
    await bus.resume_group("shop.handle")
    await bus.quiet()
    assert seen == [1, 2]


async def test_closing_does_not_wait_for_a_delivery_in_place(rig: Any, bus: Any) -> None:
    """It is handed back, and its next owner goes on counting."""
    script, other = Script(down()), await rig.open("b")
    await rig.on(bus, script, retry=rules(delay=1))
    await rig.publish(bus, 1, 2, key="k")
    await asyncio.sleep(0.25)
    start = asyncio.get_running_loop().time()
    await bus.close()
    assert asyncio.get_running_loop().time() == start
    await rig.on(other, script, retry=rules(delay=1))
    await other.quiet()
    assert script.starts == [(0.0, 1, 1), (0.25, 1, 2), (0.25, 2, 1)]


async def test_a_crash_keeps_the_attempts_made_in_place(rig: Any, bus: Any) -> None:
    """What failed before the crash counts; the start that the crash cut does not."""
    script, other = Script(down(), down()), await rig.open("b")
    await rig.on(bus, script, retry=rules(delay=0.4, attempts=3))
    await rig.publish(bus, 1)
    await asyncio.sleep(0.5)
    bus.kill()
    await bus.close()
    script.steps.append(down())
    await rig.on(other, script, retry=rules(delay=0.4, attempts=3))
    await other.quiet()
    [letter] = await other.dead_letters()
    assert script.seen == [(1, 1), (1, 2), (1, 3)]
    assert (letter.reason, letter.attempts) == ("attempts", 3)


async def test_a_suspect_is_counted_before_each_start_in_place(rig: Any, bus: Any) -> None:
    """Two failures before a crash and one start that it cut: one attempt is left of four."""
    script = Script(9.0)
    buses = [bus, await rig.open("b"), await rig.open("c")]
    policy = rules(delay=0.1, attempts=4)
    await rig.on(buses[0], script, retry=policy)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    buses[0].kill()
    script.steps = [down(), 9.0]
    await rig.on(buses[1], script, retry=policy)
    await asyncio.sleep(1)
    buses[1].kill()
    script.steps = [down(), down()]
    await rig.on(buses[2], script, retry=policy)
    await buses[2].quiet()
    [letter] = await buses[2].dead_letters()
    assert script.seen == [(1, 1), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert letter.attempts == 4
    for each in buses:
        await each.close()


async def test_a_former_owner_does_not_go_on_in_place(rig: Any, bus: Any) -> None:
    """What it has failed with is refused and counted; the attempts of the new owner stay as they are."""
    other, begun, release = await rig.open("b"), asyncio.Event(), asyncio.Event()
    former: list[int] = []
    heirs: list[int] = []

    async def handle(event: PluginEvent) -> None:
        former.append(event.attempt)
        await release.wait()
        raise down()

    async def heir(event: PluginEvent) -> None:
        heirs.append(event.attempt)
        begun.set()
        await asyncio.sleep(9)

    await rig.on(bus, handle, retry=rules(delay=0.1, attempts=2), timeout=1_000)
    await rig.publish(bus, 1)
    await asyncio.sleep(1)
    bus.suspend()
    await rig.on(other, heir, retry=rules(delay=0.1, attempts=2))
    await begun.wait()
    release.set()
    await asyncio.sleep(1)
    info = await rig.info()
    assert (former, info.stale, info.failed) == ([1], 1, 0)
    await other.quiet()
    assert heirs == [1]


async def test_what_expires_while_it_waits_in_place_is_not_started(rig: Any, bus: Any) -> None:
    """The wait does not outlive the event."""
    script = Script(down())
    await rig.on(bus, script, retry=rules(delay=1))
    expires = datetime.fromtimestamp(rig.clock.time_ns() / 1e9 + 0.5, UTC)
    await rig.publish(bus, 1, expires=expires)
    await bus.quiet()
    assert script.seen == [(1, 1)]
    assert (await rig.info()).expired == 1


async def test_what_a_handler_asks_for_itself_is_not_judged_by_rules(rig: Any, bus: Any) -> None:
    """`EventResult.retry` is carried out as it says."""
    everything = RetryPolicy(jitter=0, rules=(RetryRule(errors=("Exception",), action="discard"),))
    script = Script(EventResult.retry("later", after=7))
    await rig.on(bus, script, retry=everything)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert script.starts == [(0.0, 1, 1), (7.0, 1, 2)]


async def test_a_timeout_is_judged_by_rules_too(rig: Any, bus: Any) -> None:
    """By the name of its error."""
    policy = RetryPolicy(rules=(RetryRule(errors=("HandlerTimeout",), action="retry", delay=0.5),))
    script = Script(9.0)
    await rig.on(bus, script, timeout=2, retry=policy)
    await rig.publish(bus, 1)
    await bus.quiet()
    assert script.starts == [(0.0, 1, 1), (2.5, 1, 2)]


async def test_each_failed_attempt_is_one_line_of_log(
    rig: Any, bus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With the attempt, what comes next, and the error."""
    script = Script(down(), down())
    await rig.on(bus, script, retry=rules(delay=0.25))
    with caplog.at_level(logging.WARNING):
        await rig.publish(bus, 1)
        await bus.quiet()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "attempt 2 of 5" in lines[1]
    assert "again in place in 0.25 s" in lines[1]
    assert "carrier does not answer" in lines[1]


async def test_two_attempts_in_place_are_two_events(rig: Any, bus: Any, recorder: Any) -> None:
    """What a handler has kept of its first attempt still says so after the second."""

    def act(n: int, attempt: int) -> None:
        if attempt == 1:
            raise down()

    seen = recorder(act)
    await rig.on(bus, seen, retry=rules())
    await rig.publish(bus, 1)
    await bus.quiet()
    assert [event.attempt for event in seen.events] == [1, 2]
