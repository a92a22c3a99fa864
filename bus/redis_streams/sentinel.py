"""Redis Sentinel: where the master is, asked anew for every connection.

redis-py's own search is not used: searching twice at once it forgets sentinels, it keeps connections to them
open, tries dead ones again past our deadlines, and says of a wrong password that there is no master.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from .errors import is_denied

Address = tuple[str, int]
SENTINEL_PORT = 26_379
_WITHIN = 3.0
"""Seconds for the answer of a sentinel; less than a connection gets, so that what was wrong is told."""
_PASSWORD = "check sentinel_username and sentinel_password in PLUGBUS_BUS__URL"  # noqa: S105 - advice
_SERVICE = "name the service in PLUGBUS_BUS__URL as `sentinel monitor` names it"


class MasterUnknown(RedisConnectionError):
    """No sentinel names a master. `fix`: what a person can do, empty where only waiting helps."""

    def __init__(self, service: str, reasons: dict[Address, Exception]) -> None:
        said = "; ".join(f"{name}:{port}: {reason}" for (name, port), reason in reasons.items())
        super().__init__(f"no sentinel names the master of {service!r} ({said})")
        refused = [is_denied(reason) for reason in reasons.values()]
        is_unheard_of = any(isinstance(reason, _NoSuchService) for reason in reasons.values())
        self.is_final = all(refused)
        self.fix = _PASSWORD if any(refused) else _SERVICE if is_unheard_of else ""


class _NoSuchService(Exception):
    """The sentinel watches others."""


class _NoMaster(Exception):
    """The sentinel knows the service, and has nobody to name at the moment."""


def sentinel_pool(url: str, options: dict[str, Any]) -> ConnectionPool:
    """For `redis+sentinel://[user:password@]host[:port][,host[:port] …]/service[/database][?option=…]`.

    `sentinel_username` and `sentinel_password` are for the sentinels, every other option is as in other URLs.
    Raises `ValueError`.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not (hosts and service):
        raise ValueError("it names no sentinels, or no service")
    asked: dict[str, Any] = {**parse_url(f"redis://?{parts.query}")}
    login = {
        name: asked.pop(f"sentinel_{name}")
        for name in ("username", "password") if f"sentinel_{name}" in asked
    }  # fmt: skip
    return SentinelConnectionPool(
        unquote(service), Sentinels([_address(host) for host in hosts.split(",")], {**options, **login}),
        connection_class=_MasterConnection, db=int(database or 0), **options,
        **({"username": unquote(user)} if user else {}),
        **({"password": unquote(password)} if password else {}), **asked,
    )  # type: ignore[no-untyped-call]  # fmt: skip


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no sentinel")
    return parts.hostname, parts.port or SENTINEL_PORT


class Sentinels:
    """Those that watch the same servers; the place of redis-py's `Sentinel` in its pool."""

    def __init__(self, addresses: list[Address], options: dict[str, Any]) -> None:
        self._addresses = list(dict.fromkeys(addresses))
        self._options = options

    async def discover_master(self, service: str) -> Address:
        """What the first says that names one; all are asked at once. Raises `MasterUnknown`."""
        asking = {
            asyncio.create_task(self._ask(address, service), name="plugbus:redis:sentinel"): address
            for address in self._addresses
        }
        reasons: dict[Address, Exception] = {}
        try:
            left = set(asking)
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    found = task.result()
                    if not isinstance(found, Exception):
                        return found
                    reasons[asking[task]] = found
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        raise MasterUnknown(service, {address: reasons[address] for address in self._addresses})

    async def _ask(self, address: Address, service: str) -> Address | Exception:
        """The master's address, or why there is none to be had from this one."""
        connection = Connection(host=address[0], port=address[1], **self._options)
        try:
            async with asyncio.timeout(_WITHIN):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("SENTINEL", "MASTERS")
                return _named(await connection.read_response(), service)
        except TimeoutError:
            return TimeoutError(f"no answer within {_WITHIN:g} s")
        except (RedisError, OSError, _NoSuchService, _NoMaster) as error:
            return error
        except (ValueError, LookupError, TypeError, AttributeError):
            return ResponseError("it answers as no sentinel does")
        finally:
            await connection.disconnect(nowait=True)


class _MasterConnection(SentinelManagedConnection):
    """Holds only at a master: a sentinel may still name who has become a replica."""

    async def connect_to(self, address: Address) -> None:
        await super().connect_to(address)  # type: ignore[no-untyped-call]
        await self.send_command("INFO", "replication")  # ROLE is an administrator's command, INFO is not
        if b"role:master" not in await self.read_response():
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{address[0]}:{address[1]} is named as the master and is a replica")


def _named(masters: list[list[bytes]], service: str) -> Address:
    """What SENTINEL MASTERS says of one service. Raises `_NoSuchService`, `_NoMaster`."""
    known = [dict(zip(map(bytes.decode, flat[::2]), flat[1::2], strict=True)) for flat in masters]
    for state in known:
        if state["name"].decode() == service:
            flags = state["flags"].decode().split(",")
            address = state["ip"].decode(), int(state["port"])
            if "master" not in flags or "s_down" in flags or "o_down" in flags:
                raise _NoMaster(f"it takes {address[0]}:{address[1]} for down, and has promoted nobody yet")
            return address
    names = ", ".join(sorted(state["name"].decode() for state in known)) or "no service"
    raise _NoSuchService(f"it watches {names}")
