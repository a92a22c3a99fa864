"""Whether tests take the time and the counts that the matrix names, or the short form of the same."""

from __future__ import annotations

import os

IS_LONG = os.environ.get("PLUGBUS_FAULTS") == "long"
LONGEST = 1_800.0
"""Seconds of one test, at most, in the long form."""


def long(short: int, full: int) -> int:
    """A count or a time: of the normal run, and with PLUGBUS_FAULTS=long."""
    return full if IS_LONG else short
