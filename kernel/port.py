"""The kernel's side of the line: what one generation of one plugin may ask, checked and stamped.

Everything that is acquired here is written into a scope, so that it is given back even where the
plugin's own process cannot do it any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import nullcontext

from contracts.bus import (
    BusSubscription,
    Call,
    CallReply,
    EventBus,
    Subscription,
    SubscriptionSpec,
)
from contracts.errors import PluginStateError, ProviderLost
from contracts.event import AnyEvent, Event, EventResult, Receipt
from contracts.message import PluginEvent
from contracts.messages import AuditRecorded
from contracts.metering import Meter

from .hosts import HandlerDeclaration, Host, ProviderDeclaration, PublishOptions, RequestData
from .offers import Offers
from .scope import Entry, Scope
from .security import PermissionManager, ResourceManager
from .use import Use

_UNCOUNTED = nullcontext()
"""Of plugins that stay when nobody uses them."""


def source_of(plugin_id: str) -> str:
    """The stamp: the same on every replica, because dedupe uses it."""
    return f"/plugins/{plugin_id}"


class PluginPort:
    """See `HostPort`. Bound to one generation: identity is never an argument."""

    def __init__(
        self,
        plugin_id: str,
        generation: int,
        bus: EventBus,
        host: Host,
        permissions: PermissionManager,
        *,
        offers: Offers,
        version: str = "0",
        backoff: float = 1.0,
        use: Use | None = None,
    ) -> None:
        """`use` is told of each delivery and each call."""
        self.plugin_id = plugin_id
        self._version = version
        self.source = source_of(plugin_id)
        self.permissions = permissions
        self._resources = ResourceManager(permissions.context.limits)
        self._generation = generation
        self._bus = bus
        self._host = host
        self._backoff = backoff
        self.use = use
        self._handle = self._handle_checked if use is None else self._handle_counted
        self._publishable: set[str] = set()
        self._numbers = itertools.count(1)
        self._held: dict[str, Entry] = {}
        self._subscriptions: dict[str, tuple[SubscriptionSpec, BusSubscription]] = {}
        self.filtered: set[str] = set()
        """Names of the handlers that choose among their events."""
        self.offers = offers
        self._is_retired = False
        self.meter = Meter()
        """What its handlers took of the event loop, and what it has done over this port."""
        self.scope: Scope | None = None
        """Open while the plugin is starting, started or stopping; None: it may acquire nothing."""

    # --- publishing and asking --------------------------------------------------------------------------

    async def publish(self, event: AnyEvent, options: PublishOptions) -> Receipt:
        self._check_publish(event)
        self.meter.published += 1
        return await self._bus.publish(
            event,
            source=self.source,
            key=options.key,
            id=options.id,
            subject=options.subject,
            delay=options.delay,
            at=options.at,
            expires=options.expires,
            timeout=options.timeout,
        )

    async def publish_many(self, events: Sequence[AnyEvent], options: PublishOptions) -> list[Receipt]:
        for event in events:
            self._check_publish(event)
        self.meter.published += len(events)
        return await self._bus.publish_many(
            events, source=self.source, key=options.key, timeout=options.timeout
        )

    def report(self, record: AuditRecorded) -> None:
        # Identity is the port's: what the host says of it does not count.
        self.permissions.report(record.model_copy(update={"plugin_id": self.plugin_id}))

    async def request(self, request: RequestData) -> list[CallReply]:
        self._check_live(f"request {request.capability!r}")
        self.permissions.check_request(request.capability)
        return await self._bus.request(
            request.capability,
            request.data,
            source=self.source,
            timeout=request.timeout,
            target=request.target,
        )

    def _check_publish(self, event: AnyEvent) -> None:
        type_name = event.__event_type__ if isinstance(event, Event) else event.type
        if type_name not in self._publishable:  # decided once for each type
            self._check_live(f"publish {type_name!r}")
            self.permissions.check_publish(type_name)
            self._publishable.add(type_name)

    def _check_live(self, what: str) -> None:
        if self._is_retired:
            raise PluginStateError(
                f"generation {self._generation} of plugin {self.plugin_id!r} is unloaded and cannot {what}",
                plugin_id=self.plugin_id,
                fix="let what outlives stop() wait on context.stopping, or start it with context.spawn",
            )

    # --- acquiring ----------------------------------------------------------------------------------------

    async def subscribe(self, handler: HandlerDeclaration) -> str:
        for pattern in handler.patterns:
            self.permissions.check_subscribe(pattern)
        spec = self.subscription_spec(handler)
        scope = self._open_scope(f"subscribe {handler.name!r}")
        subscription = await self._subscribe(spec, handler.filtered)
        id = await self._hold(scope, f"subscription {spec.group}", subscription)
        self._subscriptions[id] = (spec, subscription)
        return id

    async def _subscribe(self, spec: SubscriptionSpec, filtered: bool) -> BusSubscription:
        if not filtered:
            self.filtered.discard(spec.handler)
            return await self._bus.subscribe(spec, self._handle, meter=self.meter)
        self.filtered.add(spec.handler)
        return await self._bus.subscribe(spec, self._handle, where=self._host.wants, meter=self.meter)

    def subscription_spec(self, handler: HandlerDeclaration) -> SubscriptionSpec:
        """What the bus is told of a handler."""
        options, retry = handler.options, handler.options.retry
        update: dict[str, object] = {"timeout": self._resources.handler_timeout(options.timeout)}
        if self._backoff != 1.0:
            pauses = {name: getattr(retry, name) * self._backoff for name in ("first_delay", "max_delay")}
            update["retry"] = retry.model_copy(update=pauses)
        return SubscriptionSpec(
            group=f"{self.plugin_id}.{handler.name}",
            plugin_id=self.plugin_id,
            handler=handler.name,
            patterns=handler.patterns,
            options=options.model_copy(update=update),
            source=self.source,
            generation=self._generation,
            plugin_version=self._version,
        )

    async def provide(self, provider: ProviderDeclaration) -> str:
        self.permissions.check_provide(provider.capability)
        scope = self._open_scope(f"provide {provider.capability!r}")
        timeout = self._resources.limits.max_execution_time_seconds
        offer = await self.offers.offer(provider, timeout, self._call)
        return await self._hold(scope, f"provider {provider.capability}", offer)

    async def remove(self, id: str) -> None:
        entry = self._held.pop(id, None)
        if entry is not None:
            await entry.undo()

    async def _handle_checked(self, event: PluginEvent) -> EventResult | None:
        self.meter.handled += 1
        result = await self._host.handle(event)
        if result is not None and result.events:
            self.meter.published += len(result.events)
            for returned in result.events:
                self._check_publish(returned)
        return result

    async def _handle_counted(self, event: PluginEvent) -> EventResult | None:
        with self.use or _UNCOUNTED:
            return await self._handle_checked(event)

    async def _call(self, call: Call) -> CallReply:
        self.meter.calls += 1
        with self.use or _UNCOUNTED:
            return await self._host.call(call)

    async def answer(self, call: Call) -> CallReply:
        """A call that waited for the plugin, from whoever took it meanwhile."""
        spec = next((one for one in self.offers.specs if one.capability == call.capability), None)
        if spec is None:
            raise ProviderLost(
                f"plugin {self.plugin_id!r} was started, and does not provide {call.capability!r}",
                capability=call.capability,
                fix=f"mark a method of it with @provides, or take {call.capability!r} out of its manifest",
            )
        return await self._call(call.model_copy(update={"provider": spec.provider}))

    async def _hold(self, scope: Scope, name: str, subscription: Subscription) -> str:
        id = f"{self.plugin_id}/{next(self._numbers)}"

        async def undo() -> None:
            self._held.pop(id, None)
            self._subscriptions.pop(id, None)
            await subscription.remove()

        try:
            self._held[id] = scope.push(name, undo)
        except PluginStateError:  # closed meanwhile
            await subscription.remove()
            raise
        return id

    def _open_scope(self, what: str) -> Scope:
        if self.scope is None:
            raise PluginStateError(
                f"plugin {self.plugin_id!r} cannot {what} now: handlers run only while it is started",
                plugin_id=self.plugin_id,
                fix="mark the method with @on or @provides, or do it in start()",
            )
        return self.scope

    # --- for the lifecycle --------------------------------------------------------------------------------

    @property
    def subscriptions(self) -> tuple[SubscriptionSpec, ...]:
        return tuple(spec for spec, _ in self._subscriptions.values())

    def open(self, scope: Scope) -> None:
        """From now on things may be acquired; they are written into `scope`."""
        self.scope = scope

    def retire(self) -> None:
        """The generation is unloaded: whatever still holds its context can do nothing any more."""
        self._is_retired = True
        self._publishable.clear()

    async def drain(self, grace: float) -> bool:
        """Start nothing more; wait for handlers and calls that run, up to `grace` seconds. Did all finish?

        Handlers first: one that runs may be waiting for a provider of its own plugin.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        await self.offers.announce_end()
        subscriptions = [subscription for _, subscription in self._subscriptions.values()]
        finished: list[bool] = []
        try:
            finished = await asyncio.gather(*(one.drain(grace) for one in subscriptions))
        finally:
            answered = await self.offers.drain(max(0.0, until - loop.time()))
        return answered and all(finished)
