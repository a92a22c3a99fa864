"""What the answers of a server to INFO and CONFIG mean for us. Pure."""

from __future__ import annotations

from typing import Literal

from contracts.errors import BusError

OLDEST_SERVER = (6, 2)


def check_version(facts: dict[str, str], address: str) -> None:
    """Raises `BusError` (final) for a server that is too old."""
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_SERVER:
        raise BusError(
            f"this is Redis {version or '(it does not say which)'}; Plugbus needs 6.2 or newer",
            where=address,
            fix="upgrade Redis",
            is_final=True,
        )


def durability_of(facts: dict[str, str], config: dict[str, str]) -> Literal["weak", "strong"]:
    """Strong: what was confirmed is on disk. What cannot be read is not taken for granted."""
    is_logged = config.get("appendonly", "yes" if facts.get("aof_enabled") == "1" else "no") == "yes"
    return "strong" if is_logged and config.get("appendfsync") == "always" else "weak"


def warnings_of(facts: dict[str, str], config: dict[str, str], durability: str) -> list[str]:
    found = []
    if durability == "weak":
        what = (
            f"appendfsync is {config.get('appendfsync', 'not to be read')}"
            if config.get("appendonly") == "yes"
            else "there is no append-only file"
        )
        found.append(
            f"durability is weak: {what}, so a crash may lose what was confirmed last;"
            " set appendonly yes and appendfsync always"
        )
    policy = config.get("maxmemory-policy") or facts.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        found.append(
            f"maxmemory-policy is {policy}: Redis may throw events away when its memory is full;"
            " set noeviction"
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        found.append("the append-only file cannot be written: free space on the disk of Redis")
    if facts.get("role") == "slave":
        found.append("this server is a replica: point PLUGBUS_BUS__URL at its master")
    return found


def parse_info(raw: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in raw.decode(errors="replace").splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}
