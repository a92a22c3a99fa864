"""What stands before the start of a handler, together: predicate, dedupe, circuit breaker, rate."""

from __future__ import annotations

from typing import Any

from contracts.bus import CircuitBreaker, RateLimit

from .conftest import SOON, Timed, number, on


async def test_what_is_filtered_takes_no_turn(rig: Any, bus: Any) -> None:
    """The predicate comes before the rate."""
    handler = Timed()
    await on(rig, bus, handler, where=lambda event: number(event) > 4, rate=RateLimit(limit=1, per=10))
    await rig.publish(bus, *range(7))
    await bus.quiet()
    assert handler.starts == [(0, 5), (10, 6)]


async def test_order_within_a_key_is_kept_by_all_of_them_together(rig: Any, bus: Any) -> None:
    """Predicate, dedupe, breaker and rate at once, with failures, on several lanes."""

    def act(n: int, attempt: int) -> None:
        if n % 5 == 0 and attempt == 1:
            raise ConnectionError("down")
        done.append(n)

    done: list[int] = []
    handler = Timed(act)
    await on(
        rig, bus, handler, where=lambda event: number(event) % 7 != 0, dedupe=True, retry=SOON, concurrency=4,
        rate=RateLimit(limit=4, per=1), breaker=CircuitBreaker(minimum=2, ratio=0.3, window=5, pause=3),
    )  # fmt: skip
    for n in range(60):
        await rig.publish(bus, n, key=f"k{n % 3}")
    await bus.quiet()
    wanted = [n for n in range(60) if n % 7]
    assert sorted(done) == wanted
    for remainder in range(3):
        of_key = [n for n in done if n % 3 == remainder]
        assert of_key == sorted(of_key)
    fifth_later = zip(handler.times, handler.times[4:], strict=False)
    assert all(later >= earlier + 1 - 1e-6 for earlier, later in fifth_later)
