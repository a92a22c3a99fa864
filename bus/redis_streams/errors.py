"""What an error reply of Redis means for us: who must act, and whether asking again may help. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from redis.exceptions import AuthenticationError

from contracts.errors import BusError

if TYPE_CHECKING:
    from .wire import Refused

_AGAIN = {
    "LOADING": "it is still loading its data",
    "BUSY": "a script runs for too long in it",
    "TRYAGAIN": "it is being moved",
    "CLUSTERDOWN": "its cluster is down",
    "MASTERDOWN": "its master is gone",
    "READONLY": "it is a replica",
    "UNBLOCKED": "the stream was deleted",
    "MISCONF": "it cannot write to its disk",
    "OOM": "its memory is full",
    "ERR max number of clients": "it has too many clients",
}
_FIX = {
    "MISCONF": "free space on the disk of Redis",
    "OOM": "raise maxmemory, or retire a group that nobody handles: plugbus group list",
    "READONLY": "point PLUGBUS_BUS__URL at the master",
    "WRONGTYPE": "something else uses this namespace: choose another with PLUGBUS_BUS__NAMESPACE",
    "NOPERM": "give the user of PLUGBUS_BUS__URL the commands and keys that `plugbus doctor` names",
    "NOAUTH": "check user and password in PLUGBUS_BUS__URL",
    "WRONGPASS": "check user and password in PLUGBUS_BUS__URL",
    "Unknown Redis command": "Plugbus needs Redis 6.2 or newer, with nothing renamed",
    "ERR unknown command": "Plugbus needs Redis 6.2 or newer, with nothing renamed",
}
_FROM_SCRIPT = re.compile(
    r"^(?:ERR )?(?:Error running script \(call to [^)]*\): )?(?:@user_script: ?\d+: )+-?"
)
"""What servers put before the error of a command inside a script; each version otherwise."""
_MASTER_MOVED = ("READONLY", "MASTERDOWN")


def plain(text: str) -> str:
    """An error as the command itself would have had it."""
    found = _FROM_SCRIPT.sub("", text).strip()
    return found if found == text.strip() or found.partition(" ")[0].isupper() else f"ERR {found}"


def may_pass(text: str) -> bool:
    """Whether the same may go through later, without anybody's doing."""
    text = plain(text)
    return any(text.startswith(begin) for begin in _AGAIN)


def must_reconnect(text: str) -> bool:
    """Whether another server has become the one to talk to."""
    return plain(text).startswith(_MASTER_MOVED)


def is_denied(error: object) -> bool:
    """Whether a password is wrong, or a user has not the right; redis-py leaves the first word out."""
    text = str(error)
    return isinstance(error, AuthenticationError) or any(
        word in text for word in ("NOAUTH", "WRONGPASS", "NOPERM", "no permissions")
    )


def explained(refusal: Refused | str, *, where: str = "") -> BusError:
    """The error for a person. `is_final`: asking again will not help."""
    text = plain(str(refusal))
    meaning = next((say for begin, say in _AGAIN.items() if begin in text[:80]), "")
    fix = next((fix for begin, fix in _FIX.items() if begin in text[:80]), "plugbus doctor")
    found = BusError(
        f"Redis refuses: {meaning + ' (' if meaning else ''}{text[:300]}{')' if meaning else ''}",
        where=where,
        fix=fix,
    )
    found.is_final = not meaning
    return found
