"""What stands for an entry that cannot be read: enough of an event to be shown, and its bytes. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from .layout import order_of
from .packing import Damaged, StoredMessage, Undecodable, named, unpack, unpacked

SOURCE = "/bus/unreadable"
_TYPE = "unreadable"


def unreadable(raw: bytes, entry: bytes, *, kind: bytes = b"") -> StoredMessage:
    """A message of these bytes, as far as anything is known of it."""
    name, _, version = kind.decode(errors="replace").rpartition("@")
    at = entry if entry[:1].isdigit() and b"-" in entry else b"0-0"
    message = StoredMessage(
        entry.decode(errors="replace"), SOURCE, name or _TYPE, int(version) if version.isdigit() else 1,
        (order_of(at) >> 64) * 1_000_000, None, raw,
    )  # fmt: skip
    message.entry = at
    message.sequence = order_of(at)
    return message


def raw_of(fields: Sequence[bytes]) -> bytes:
    """All fields of a foreign entry, as JSON, what is no text in base64; of one of ours the data alone."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=False))
    if {b"t", b"h", b"d", b"b"} == pairs.keys():
        return pairs[b"d"]
    return json.dumps({_text(name): _text(value) for name, value in pairs.items()}).encode()


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def stored_message(text: bytes, name: bytes) -> StoredMessage:
    """A message that lies outside of its stream. What cannot be read is shown as it is."""
    try:
        fields, entry = unpacked(text)
        return unpack(named(fields), entry)
    except (Damaged, Undecodable):
        return unreadable(text, name)
