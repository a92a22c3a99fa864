"""What bus and kernel say to their log of things that are not theirs."""

from __future__ import annotations


class Quoted(str):
    """Text that may quote the data of an event: it is logged, and left out of diagnostics for others."""

    __slots__ = ()
