"""How a command is provided, audited, and told that what it names is not there."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from contracts.bus import Call, CallReply, EventBus, ProviderSpec
from contracts.event import load_model
from contracts.messages import AuditRecorded
from contracts.query import Query, answer_adapter

from ..kernel import Kernel

Q = TypeVar("Q", bound=Query[Any])

TIMEOUT = 120.0
"""Seconds that a command may take; each step of a plugin has a deadline of its own."""


class CommandDesk:
    """What the commands have in common."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    @property
    def bus(self) -> EventBus:
        return self.kernel.services.bus

    async def provide(
        self, query: type[Q], answer: Callable[[Q, Call], Awaitable[Any]], *, lasts: bool = False
    ) -> None:
        """Answer `query` on this replica until the kernel stops; `lasts`: until its bus is closed."""
        name = query.__capability__

        async def provider(call: Call) -> CallReply:
            asked = load_model(query, call.data, what=f"the query of {name}")
            adapter = answer_adapter(query)  # of some fifty commands, few are ever asked
            return CallReply(data=adapter.dump_json(await answer(asked, call)).decode())

        spec = ProviderSpec(
            capability=name, plugin_id="kernel", provider=name, reach="local", timeout=TIMEOUT
        )
        subscription = await self.bus.provide(spec, provider)
        if not lasts:
            self.kernel.scope.push(f"command {name}", subscription.remove)

    def soon(self, name: str, plugin_id: str, action: Callable[[], Awaitable[object]]) -> None:
        """Do it once nothing of the plugin is under way, for one that commands itself.

        It does so perhaps from within the step that is under way, and could not wait for its own end.
        """

        async def wait() -> None:
            await self.kernel.operations.idle(plugin_id)
            await action()

        self.kernel.scope.spawn(wait(), name=f"{name} {plugin_id}")

    def audit(self, call: Call, action: str, subject: str, **details: object) -> None:
        """Write down who did what to whom."""
        told = tuple((name, str(value)) for name, value in details.items())
        self.kernel.services.audit(
            AuditRecorded(plugin_id=call.source, action=action, subject=subject, details=told)
        )


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The fix for a name that is not known: those near to it, and the command that lists all."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(map(repr, near))}? ({otherwise})" if near else otherwise
