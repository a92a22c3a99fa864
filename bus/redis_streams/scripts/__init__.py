"""The scripts that run inside Redis, one file each; every one answers with the nonce of its call first."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


class Script:
    """One file of this folder."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (Path(__file__).parent / f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def __repr__(self) -> str:
        return f"Script({self.name!r})"


@cache
def script(name: str) -> Script:
    return Script(name)


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.lua"))
