"""`plugbus check`: a capability that is requested and that nobody provides is told before it is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Plugbus
from .test_check import findings, write

ASKS = """
    class Price(Query[float], capability="{name}"):
        sku: str
    class Shop(BasePlugin, plugin_id="shop", version="1.0", security_level="trusted"{more}):
        async def start(self):
            await self.context.request(Price(sku="a"))
"""
ANSWERS = """
    class Price(Query[float], capability="pricing.quote"):
        sku: str
    class Pricing(BasePlugin, plugin_id="pricing", version="1.0", security_level="trusted"{more}):
        @provides
        async def quote(self, query: Price) -> float:
            return 1.0
"""


def asks(file: Path, name: str = "pricing.quote", more: str = "") -> Path:
    return write(file, ASKS.format(name=name, more=more))


def test_one_that_nobody_provides_is_a_warning(plugbus: Plugbus, folder: Path) -> None:
    """At its line, once, with what to do; strictly it fails."""
    file = asks(folder / "shop.py", more=', requests=["pricing.quote"]')
    [one] = findings(plugbus, "shop.py")
    assert (one["severity"], one["code"]) == ("warning", "missing-capability")
    assert (one["text"], one["where"]) == ("nobody provides 'pricing.quote', which is requested", f"{file}:7")
    assert one["fix"] == "check it together with the plugin that provides it"
    assert plugbus("check", "shop.py").code == 0
    assert plugbus("check", "shop.py", "--strict").code == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pricing.qoute", "pricing.quote"),
        ("alerts.actve", "alerts.active"),
        ("kernel.plugin.lst", "kernel.plugin.list"),
    ],
)
def test_a_slip_of_the_pen_is_told_as_one(plugbus: Plugbus, folder: Path, name: str, meant: str) -> None:
    """The nearest name that is provided is offered: by a plugin, by one of ours, by the kernel."""
    asks(folder / "shop.py", name)
    write(folder / "pricing.py", ANSWERS.format(more=""))
    [one] = findings(plugbus, "shop.py", "pricing.py")
    assert (one["code"], one["fix"]) == ("missing-capability", f"did you mean '{meant}'?")


@pytest.mark.parametrize("name", ["telemetry.trace.show", "alerts.active", "kernel.plugin.list"])
def test_what_comes_with_plugbus_is_there(plugbus: Plugbus, folder: Path, name: str) -> None:
    """Of the kernel, and of the built-in plugins, whether they are on or not."""
    asks(folder / "shop.py", name)
    assert findings(plugbus, "shop.py") == []


@pytest.mark.parametrize("more", ["", ', provides=["pricing.quote"]'])
def test_whoever_is_checked_with_it_provides(plugbus: Plugbus, folder: Path, more: str) -> None:
    """By its code or by its manifest; and so does a plugin of the settings, where only one is checked."""
    asks(folder / "my_plugins/shop.py")
    write(folder / "my_plugins/pricing.py", ANSWERS.format(more=more))
    assert findings(plugbus, "my_plugins") == []
    assert findings(plugbus, "my_plugins/shop.py") == []
    (folder / "elsewhere").mkdir()
    (folder / "my_plugins/pricing.py").rename(folder / "elsewhere/pricing.py")
    assert len(findings(plugbus, "my_plugins/shop.py")) == 1
    assert findings(plugbus, "my_plugins/shop.py", "elsewhere/pricing.py") == []
    (folder / "plugbus.toml").write_text('plugin_paths = ["my_plugins", "elsewhere"]\n')
    assert findings(plugbus, "my_plugins/shop.py") == []
    (folder / "plugbus.toml").write_text("plugin_paths = 3\n")
    assert len(findings(plugbus, "my_plugins/shop.py")) == 1, "settings that are wrong are not checked here"


@pytest.mark.parametrize(
    ("pattern", "count"), [("pricing.*", 1), ("alerts.*", 0), ("kernel.**", 0), ("**", 0)]
)
def test_a_pattern_is_met_by_any_of_it(plugbus: Plugbus, folder: Path, pattern: str, count: int) -> None:
    """As it stands in the manifest; who requests everything asks for nothing in particular."""
    write(
        folder / "shop.py",
        f"""
        class Shop(BasePlugin, plugin_id="shop", version="1.0", security_level="trusted",
                   requests=["{pattern}"]): ...
        """,
    )
    assert [one["where"] for one in findings(plugbus, "shop.py")] == [str(folder / "shop.py")] * count


def test_what_the_settings_name_satisfies_dependencies_too(plugbus: Plugbus, folder: Path) -> None:
    """A plugin that lies beside the one that is checked is no missing one."""
    write(folder / "my_plugins/pricing.py", ANSWERS.format(more=""))
    asks(folder / "my_plugins/shop.py", more=', dependencies=["pricing>=1"]')
    assert findings(plugbus, "my_plugins/shop.py") == []
