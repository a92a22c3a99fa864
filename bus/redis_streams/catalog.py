"""The catalogue of event types that all replicas share.

Each replica writes what it declares itself, a field for each, and reads what the others have written when
the revision is another one. So two never write the same field, and nothing is written or read for an event.
What a replica leaves behind that vanishes stays, until its plugin is declared anew by somebody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from contracts.bus import CatalogEntry
from contracts.errors import BusError

from ..catalog import Catalog
from .errors import explained, may_pass
from .wire import Command, Lost, Refused

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_AGAIN = 0.05
REVISION = "types"
"""Field of the hash `meta`: another text after each change."""
TYPES = b"types"
"""What the news say then."""


class SharedCatalog(Catalog):
    """What this replica declares, and what the others have declared as far as it was read."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core
        self._own: dict[bytes, bytes] | None = None
        """What this replica declares, as it is written; None: made when it is needed."""
        self._written: dict[bytes, bytes] = {}
        """As it was last."""
        self._anew: set[str] = set()
        """Plugins that were declared since: what others have left behind of them goes."""
        self._others: dict[bytes, tuple[bytes, CatalogEntry]] = {}
        """Field → as it was read, and what it says."""
        self._revision: bytes | None = b""
        """Of what was read; empty: nothing was."""
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._is_open = False
        self._said = ""

    # --- what is asked of it --------------------------------------------------------------------------

    def add(self, entries: Sequence[CatalogEntry], replica: str) -> Callable[[], None]:
        """Known here at once, and written soon."""
        undo_here = super().add(entries, replica)
        self._anew.update(entry.plugin_id for entry in entries)
        self._changed()

        def undo() -> None:
            undo_here()
            self._changed()

        return undo

    def __iter__(self) -> Iterator[tuple[str, CatalogEntry]]:
        """What this replica declares comes first, and as it declares it."""
        yield from super().__iter__()
        for field in sorted(self._others):
            yield _parts(field)[2], self._others[field][1]

    # --- reading and writing --------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises `Lost`, `Refused`."""
        self._is_open = True
        await self._look()

    async def close(self) -> None:
        """What was taken out last is taken out for everybody. Raises `Lost`, `Refused`."""
        self._is_open = False
        if self._fields() != self._written:
            await self._look()

    def look_soon(self) -> None:
        """There may be something new, here or there: once for whatever comes meanwhile."""
        if not self._is_open:
            return
        if self._looking is not None and not self._looking.done():
            self._look_again = True
            return
        self._looking = self._core.spawn(self._keep_looking(), "plugbus:redis:types")

    def forget(self) -> None:
        """Redis has lost its data: everything is written again."""
        self._revision = b""
        self.look_soon()

    def _changed(self) -> None:
        self._own = None
        self.look_soon()

    async def _keep_looking(self) -> None:
        self._look_again = True
        while self._look_again:
            self._look_again = False
            try:
                await self._core.link.ready(self._core.link.control)
                await self._look()
                self._said = ""
            except Lost:
                self._look_again = True
                await asyncio.sleep(_AGAIN)
            except Refused as error:
                if may_pass(str(error)):
                    self._look_again = True
                    await asyncio.sleep(_AGAIN)
                else:  # the next beat asks again
                    self._say(explained(error, where=self._core.keys.types))

    def _say(self, error: BusError) -> None:
        if error.message != self._said:
            self._said = error.message
            log.error("event types of other replicas are not known: %s; fix: %s", error.message, error.fix)

    async def _look(self) -> None:
        """Read what is new, write what is missing. Raises `Lost`, `Refused`."""
        wire, keys = self._core.link.control, self._core.keys
        async with self._lock:
            revision = await wire.ask("HGET", keys.meta, REVISION)
            own, anew = self._fields(), frozenset(self._anew)
            if revision == self._revision and own == self._written and not anew:
                return
            flat = await wire.ask("HGETALL", keys.types)
            there = dict(zip(flat[::2], flat[1::2], strict=True))
            missing = {field: raw for field, raw in own.items() if there.get(field) != raw}
            out = {field for field in there.keys() - own.keys() if self._is_left_behind(field, anew)}
            commands: list[Command] = [("HSET", keys.types, field, raw) for field, raw in missing.items()]
            if out:
                commands.append(("HDEL", keys.types, *sorted(out)))
            if commands:
                # Last, so that whoever has read the new revision reads the fields too.
                await wire.ask_all(*commands, ("HSET", keys.meta, REVISION, secrets.token_hex(8)))
            self._read({field: raw for field, raw in there.items() if field not in own and field not in out})
            self._written, self._revision = own, revision
            self._anew -= anew
        if commands:
            await self._core.registry.tell(TYPES)

    def _fields(self) -> dict[bytes, bytes]:
        if self._own is None:
            self._own = {}
            for replica, entry in super().__iter__():
                field = f"{entry.type}@{entry.version} {entry.plugin_id} {replica}".encode()
                self._own.setdefault(field, entry.model_dump_json(exclude={"replicas"}).encode())
        return self._own

    def _is_left_behind(self, field: bytes, anew: Collection[str]) -> bool:
        """By this replica, or of a plugin that it declares anew by one that is gone."""
        if field in self._written:
            return True
        _, plugin, replica = _parts(field)
        here = self._core.registry.view.replicas.keys() - {self._core.replica}
        return plugin in anew and replica not in here

    def _read(self, there: dict[bytes, bytes]) -> None:
        found: dict[bytes, tuple[bytes, CatalogEntry]] = {}
        for field, raw in there.items():
            known = self._others.get(field)
            if known is not None and known[0] == raw:
                found[field] = known
                continue
            with contextlib.suppress(ValueError):  # of somebody else: nothing that we could tell
                found[field] = raw, CatalogEntry.model_validate_json(raw)
        self._others, self._listed = found, None


def _parts(field: bytes) -> tuple[str, str, str]:
    """Type and version, plugin, replica."""
    kind, _, rest = field.decode(errors="replace").partition(" ")
    plugin, _, replica = rest.partition(" ")
    return kind, plugin, replica
