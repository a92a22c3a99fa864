"""Caches of libraries that would keep a generation's code for as long as the process lives.

FastAPI remembers what kind of function each of the last 4,096 routes is. Behind each function stands all that
it reaches, the application of its generation with all its models and validators: some hundred megabytes
after as many reloads. What is forgotten is found out again when the next routes are built.
"""

from __future__ import annotations

import sys

HOLDERS = ("fastapi.dependencies.models", "fastapi._compat.v2")
"""Modules whose functions remember functions and classes that they were given."""


def forget() -> None:
    """Empty them. What was never imported is not imported for that."""
    for name in HOLDERS:
        for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()
