"""Files that are written wholly or not at all: a reader finds the former one or the new, never a part."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, content: bytes, *, mode: int = 0o600, is_durable: bool = True) -> None:
    """Put `content` in the place of what `file` was. Raises `OSError`; nothing has changed then.

    `is_durable`: it is on the disk when this returns. Without, it is faster, and a crash of the machine may
    cost it.
    """
    descriptor, fresh = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as made:
            made.write(content)
            made.flush()
            if is_durable:
                os.fsync(descriptor)
        if mode != 0o600:  # as which it was made
            Path(fresh).chmod(mode)
        Path(fresh).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(fresh).unlink()
        raise
