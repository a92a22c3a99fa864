"""How far the kernel is with the whole of its plugins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Phase:
    """Written by boot and shutdown alone; whoever starts a plugin looks at it."""

    is_booted: bool = False
    """Every plugin has had its turn to start."""
    is_stopping: bool = False
    """Nothing is started any more."""
