"""The door of Plugbus: what authors import from, and where the command starts.

The four packages of Plugbus have common names. Before anything is handed on, the door checks that
each of them really is ours, by its place beside this file and by a mark inside it, and otherwise says
which distribution stands in the way. The flat list is handed on lazily, so that `plugbus version` and
shell completion do not pay for it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "ASGIApp",
    "BasePlugin",
    "BusClosed",
    "BusFull",
    "CallError",
    "CallRefused",
    "CallTimeout",
    "CircuitBreaker",
    "ConfigurationResult",
    "Envelope",
    "Event",
    "EventResult",
    "HealthCheck",
    "IConfigurablePlugin",
    "IEventPlugin",
    "IPlugin",
    "IPluginHealth",
    "IWebConfigurablePlugin",
    "IWebPlugin",
    "InvalidEvent",
    "InvalidOption",
    "InvalidPattern",
    "NoProvider",
    "PayloadTooLarge",
    "PerformanceMetrics",
    "Permission",
    "PermissionDeniedError",
    "PlugbusError",
    "PluginContext",
    "PluginDependency",
    "PluginEvent",
    "PluginHandle",
    "PluginMetadata",
    "PluginNotReady",
    "PluginStatus",
    "ProviderFailed",
    "ProviderLost",
    "PublishUnknown",
    "Query",
    "RateLimit",
    "Receipt",
    "ResourceLimits",
    "RetryPolicy",
    "RetryRule",
    "SecurityLevel",
    "StaticMount",
    "StormDetected",
    "SubscriptionOptions",
    "on",
    "provides",
    "upcast",
]

if TYPE_CHECKING:
    from contracts import *  # noqa: F403 - the one place where the flat list is handed on whole

_PACKAGES = ("contracts", "bus", "kernel", "plugins")
_HERE = Path(__file__).resolve().parent


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'plugbus' has no attribute {name!r}")
    check_packages()
    import contracts

    # All of them at once: from now on they are found without coming here, and nothing is checked again.
    globals().update({each: getattr(contracts, each) for each in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def check_packages() -> None:
    """Raise `ImportError` if one of the four packages that Python would import is not ours."""
    for name in _PACKAGES:
        found = _location(name)
        if found is None or found.parent.parent != _HERE or not _is_marked(found, name):
            raise ImportError(_shadowed(name, found))


def _location(name: str) -> Path | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return Path(loaded.__file__).resolve() if loaded.__file__ else None
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _is_marked(file: Path, name: str) -> bool:
    return f'__plugbus__ = "{name}"' in file.read_text(encoding="utf-8", errors="replace")


def _shadowed(name: str, found: Path | None) -> str:
    if found is None:
        return f"Plugbus is not complete: its package '{name}' is missing. Install plugbus again."
    from importlib.metadata import packages_distributions

    others = [owner for owner in packages_distributions().get(name, ()) if owner != "plugbus"]
    whose = f"the distribution {', '.join(sorted(set(others)))}" if others else f"{found}"
    return (
        f"the package '{name}' of Plugbus is shadowed by {whose}. "
        "Plugbus wants an environment of its own: python3 -m venv .venv, and install plugbus there."
    )


def main() -> None:
    """The command `plugbus`."""
    if sys.argv[1:] in (["version"], ["--version"]):  # answered before anything is imported
        print(f"plugbus {__version__}")
        return
    try:
        check_packages()
    except ImportError as error:
        sys.exit(f"plugbus: {error}")
    from kernel.cli import main as command_line

    command_line()
