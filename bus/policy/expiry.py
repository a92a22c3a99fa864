"""An event past its expiry is not handled any more."""

from __future__ import annotations

from contracts.message import Message


def is_expired(message: Message, now_ns: int) -> bool:
    return message.expires_ns is not None and now_ns >= message.expires_ns
