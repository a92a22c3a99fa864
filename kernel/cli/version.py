"""`plugbus version`, and the version itself."""

import platform

from .output import AsJson, say, say_item


def installed_version() -> str:
    """The version of Plugbus that is installed."""
    from importlib.metadata import version

    return version("plugbus")


def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        say_item("version", {"plugbus": installed_version(), "python": platform.python_version()})
    else:
        say(f"plugbus {installed_version()}")
