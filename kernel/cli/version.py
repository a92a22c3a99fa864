"""`plugbus version`, and the version itself."""

import platform

from ..version import plugbus_version
from .output import AsJson, say, say_item


def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        say_item("version", {"plugbus": plugbus_version(), "python": platform.python_version()})
    else:
        say(f"plugbus {plugbus_version()}")
