"""Named points in the life of a process: there it dies, or stands still.

    before:settle       when it is about to send its next settlement
    after:fetch#3       when the answer to its third fetch has come, and nobody has looked at it yet
    before:mark         when it is about to send a settlement that carries a `mark`

A point names a script of ours, or an operation of `settle`. It is looked for in what this process sends, so
the process must be one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bus.redis_streams.place import RedisPlace
from bus.redis_streams.scripts import names, script
from bus.redis_streams.transaction import Done, Transactions
from bus.redis_streams.wire import Answer, ScriptCall, Wire

OPERATIONS = ("ack", "keep", "leave", "bury", "mark", "done", "replay")
"""What a settlement may carry."""
_FORM = re.compile(r"(before|after):(\w+)(?:#(\d+))?")


@dataclass(frozen=True)
class Point:
    """At the `nth` call from now on."""

    when: Literal["before", "after"]
    what: str
    nth: int = 1

    @classmethod
    def read(cls, text: str) -> Point:
        found = _FORM.fullmatch(text)
        if found is None or found[2] not in {*names(), *OPERATIONS}:
            raise ValueError(f"{text!r} is no point: before:settle, after:fetch#2, before:mark …")
        return cls("before" if found[1] == "before" else "after", found[2], int(found[3] or 1))

    def __str__(self) -> str:
        return f"{self.when}:{self.what}" + (f"#{self.nth}" if self.nth > 1 else "")

    def fits(self, call: ScriptCall) -> bool:
        if self.what in OPERATIONS:
            return call.script.name == "settle" and self.what in call.arguments
        return call.script.name == self.what


class Watch:
    """Looks at every script call of this process; `reached` is called at the point, in the middle of it."""

    def __init__(self, reached: Callable[[Point], None]) -> None:
        self._reached = reached
        self._armed: dict[Point, int] = {}
        """How many calls are still to come."""
        watch, submit, send = self, Wire.submit_script, Transactions.send

        def watched(wire: Wire, call: ScriptCall, done: Callable[[Answer | None], None]) -> None:
            def answered(answer: Answer | None) -> None:
                if answer is not None:
                    watch.look("after", [call])
                done(answer)

            watch.look("before", [call])
            submit(wire, call, answered)

        def watched_transaction(
            transactions: Transactions,
            settling: Sequence[RedisPlace],
            hungry: Sequence[RedisPlace],
            done: Done,
        ) -> None:
            """It stands for calls of scripts."""
            calls = [ScriptCall(script("settle"), (), place.journal.unconfirmed or ()) for place in settling]
            calls += [ScriptCall(script("fetch"), (), ()) for _ in hungry]

            def answered(answers: list[Answer] | None) -> None:
                if answers:
                    watch.look("after", calls)
                done(answers)

            watch.look("before", calls)
            send(transactions, settling, hungry, answered)

        Wire.submit_script = watched  # type: ignore[assignment, method-assign]
        Transactions.send = watched_transaction  # type: ignore[method-assign]

    def arm(self, point: Point) -> None:
        self._armed[point] = point.nth

    def look(self, when: str, calls: Sequence[ScriptCall]) -> None:
        for point in [point for point in self._armed if point.when == when]:
            self._armed[point] -= sum(point.fits(call) for call in calls)
            if self._armed[point] <= 0:
                del self._armed[point]
                self._reached(point)
