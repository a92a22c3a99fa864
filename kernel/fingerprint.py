"""How large a plugin is, the checksum of its files, and by what one sees that they have changed."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from .marks import Marks
from .plugin_files import PluginFiles


class Fingerprint(NamedTuple):
    """What the files of a plugin are."""

    size: int
    checksum: str
    marks: Marks = Marks()


def fingerprint(files: PluginFiles) -> Fingerprint:
    """Bytes and SHA-256 of a file, or of a folder's files with their names.

    Raises `OSError` for what cannot be read, and `TooLarge`.
    """
    size, digest = 0, hashlib.sha256()
    for name, content in files.contents():
        size += len(content)
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return Fingerprint(size, digest.hexdigest(), files.marks())
