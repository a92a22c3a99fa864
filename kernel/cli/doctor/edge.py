"""The kernel that may run here, and the port on which its gateway would listen."""

import errno
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...discovery import PluginDiscovery
from ...finding import BUILT_IN_FOLDER
from ...settings import PluginSettings, Settings
from ...state import Endpoint, StateFolder
from .check import Check, failed, ok, warning

GATEWAY = "gateway"
_PATIENCE = 3.0
"""Seconds to wait for an answer of what listens there."""


class Running(NamedTuple):
    """A kernel that holds the state folder."""

    pid: int
    endpoint: Endpoint | None


def running_kernel(settings: Settings) -> Running | None:
    """Raises `OSError` where the state folder may not be read."""
    folder = StateFolder.locate(settings.state_dir, settings.file)
    pid = folder.holder()
    return None if pid is None else Running(pid, folder.endpoint())


def check_kernel(settings: Settings) -> Check:
    try:
        running = running_kernel(settings)
    except OSError as error:
        return failed(
            "kernel", f"cannot be looked for: {error.strerror or error}", "see the state folder above"
        )
    if running is None:
        return ok("kernel", "none runs on this state folder", running=False)
    if running.endpoint is None:
        text = (
            f"runs (pid {running.pid}), but does not listen: it starts, waits for its bus, or has no gateway"
        )
        return warning("kernel", text, running=True, pid=running.pid)
    return _readiness(settings, running.endpoint)


def _readiness(settings: Settings, endpoint: Endpoint) -> Check:
    folder = StateFolder.locate(settings.state_dir, settings.file)
    configured = settings.token.get_secret_value() if settings.token else None
    answer = _ask(f"{endpoint.url}/readyz", configured or folder.stored_token())
    where = f"{endpoint.url} (pid {endpoint.pid})"
    facts = {"running": True, "pid": endpoint.pid, "url": endpoint.url}
    if answer is None or "status" not in answer:
        return failed(
            "kernel", f"does not answer at {where}", "see its log; stop it and start it again", **facts
        )
    reasons = "; ".join([*answer.get("reasons", ()), *answer.get("notes", ())])
    ready = answer["status"] != HTTPStatus.SERVICE_UNAVAILABLE  # a problem document has that of HTTP
    text = f"{answer['status'] if ready else 'not ready'} at {where}{f': {reasons}' if reasons else ''}"
    if not ready:
        return failed("kernel", text, "plugbus plugin list, plugbus bus info", **facts)
    if answer["status"] == "degraded":
        return warning("kernel", text, "plugbus plugin list", **facts)
    return ok("kernel", text, **facts)


# --- the port ------------------------------------------------------------------------------------------


def check_port(settings: Settings) -> Check:
    policy = settings.plugins.get(GATEWAY) or PluginSettings()
    if policy.enabled is False:
        return ok("port", "none is needed: the gateway is not enabled")
    config = {**_defaults(), **policy.config}
    host, port = config["host"], config["port"]
    if not isinstance(host, str) or not isinstance(port, int) or not 0 <= port <= 65_535:
        text = f"{host}:{port} is no address to listen on"
        return failed("port", text, "[plugins.gateway.config] host = '127.0.0.1' and port = 8000")
    if port == 0:
        return ok("port", "any free one", host=host, port=port)
    return _port(settings, host, port, falls_back=config["port_fallback"] is True)


def _defaults() -> Mapping[str, Any]:
    return PluginDiscovery().discover_path(BUILT_IN_FOLDER / GATEWAY).metadata.default_configuration


def _port(settings: Settings, host: str, port: int, *, falls_back: bool) -> Check:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    facts = {"host": host, "port": port}
    if _is_our_own(settings, port):
        return ok("port", f"{address} is where the running kernel listens", **facts)
    error = _bind(host, port)
    if error is None:
        return ok("port", f"{address} is free", **facts)
    if error.errno != errno.EADDRINUSE:
        text = f"{address} cannot be listened on: {error.strerror or error}"
        return failed("port", text, "--host 127.0.0.1, and a port from 1024", **facts)
    text = f"{address} is in use by {_who(address)}"
    if falls_back:
        return warning("port", text, "none is needed: another port will be taken", **facts)
    return failed("port", text, "--port 0 for any free port, or another one", **facts)


def _is_our_own(settings: Settings, port: int) -> bool:
    try:
        running = running_kernel(settings)
    except OSError:
        return False  # told where the kernel was looked for
    return (
        running is not None and running.endpoint is not None and urlsplit(running.endpoint.url).port == port
    )


def _bind(host: str, port: int) -> OSError | None:
    """Why the port cannot be taken; None: it can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sock:
            if os.name == "posix":  # elsewhere two processes could share the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1)
    except OSError as error:
        return error
    return None


def _who(address: str) -> str:
    alive = _ask(f"http://{address}/livez", None)
    is_ours = alive is not None and alive.get("status") == "alive"
    return "a Plugbus kernel with another state folder" if is_ours else "another process"


def _ask(url: str, token: str | None) -> dict[str, Any] | None:
    """The JSON object that `url` answers, whatever its status; None: there is none."""
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        found = httpx.get(url, headers=headers, timeout=_PATIENCE, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None
    return found if isinstance(found, dict) else None
