"""What all facts have in common that kernel and bus tell."""

from __future__ import annotations

from ..event import Event


class Fact(Event, defer_build=True):
    """Built when the first one is made, read or asked for its schema.

    There are many kinds, of which one process sees few, and every program that imports contracts would pay
    for all of them. What is wrong with one is so found late: a test builds each.
    """
