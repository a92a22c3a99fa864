"""From a plan to its result, on a server and in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from fault_tools.servers import Server

from .conductor import Conductor
from .plan import Plan
from .report import report
from .system import System
from .verdict import Result, judged

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def carry_out(plan: Plan, binary: Path, folder: Path, faststream: Path | None = None) -> tuple[Result, str]:
    """The result and its report. `faststream`: the python of its environment; None: ours is what runs."""
    with Server(binary, DURABLE) as server:
        system = _system(plan, server, folder, faststream)
        versions = {"Redis": _version(server), **system.versions()}
        course = Conductor(plan, system, server, folder).run()
    result = judged(plan, course)
    return result, report(system.name, system.settings(), versions, result)


def _system(plan: Plan, server: Server, folder: Path, faststream: Path | None) -> System:
    """Only what runs is imported."""
    if faststream is not None:
        from .faststream_system import FaststreamSystem

        return FaststreamSystem(plan, server, folder, faststream)
    from .plugbus_system import PlugbusSystem

    return PlugbusSystem(plan, server, folder)


def _version(server: Server) -> str:
    with server.client() as client:
        return str(client.info("server")["redis_version"])
