"""The audit log: every record is a whole line, or the event is not handled."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import PluginEvent
from contracts.base import ON
from contracts.event import Event
from contracts.messages import AuditRecorded, PluginStarted, Severity
from plugins.audit import Audit, AuditLogger
from plugins.audit.audit import append_line

STARTED = PluginStarted(
    plugin_id="alerts",
    version="1.0.0",
    generation=1,
    replica="r1",
    reason="größe\u2028 \n🌊",
    level_requested="trusted",
    level_effective="trusted",
    seconds=0.5,
)


def delivery(event: Event = STARTED, id: str = "a1") -> PluginEvent:
    return PluginEvent.of(event, id=id, source="/kernel")


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


@pytest.fixture
async def audit(set_up: Callable[..., Any]) -> Any:
    plugin = set_up(Audit)
    await plugin.initialize()
    return plugin


async def test_an_event_is_one_line_in_cloudevents_form(audit: Any) -> None:
    """Attributes and data stand in the line as CloudEvents' structured form has them."""
    event = delivery()
    assert await audit.record(event) is None
    [line] = lines(audit.log.file)
    assert line == {**event.envelope.attributes(), "data": STARTED.model_dump(mode="json")}
    assert (line["specversion"], line["type"], line["source"]) == ("1.0", "plugin.started", "/kernel")


async def test_a_line_is_plain_text_whatever_stands_in_it(audit: Any) -> None:
    """No character of an event can break a line or reach a terminal as a command."""
    await audit.record(delivery())
    assert audit.log.file.read_bytes().isascii()
    assert len(audit.log.file.read_text().splitlines()) == 1


async def test_records_are_appended_in_order(audit: Any, set_up: Callable[..., Any]) -> None:
    """A restart goes on where the log ended."""
    await audit.record(delivery(id="a1"))
    await audit.record(delivery(id="a2"))
    later = set_up(Audit)
    await later.initialize()
    await later.record(delivery(id="a3"))
    assert [line["id"] for line in lines(audit.log.file)] == ["a1", "a2", "a3"]


async def test_only_the_owner_can_read_the_log(audit: Any) -> None:
    """The file is made with mode 0600."""
    await audit.record(delivery())
    assert stat.S_IMODE(audit.log.file.stat().st_mode) == 0o600
    assert audit.log.file.name == "audit.jsonl"


async def test_the_file_may_be_moved_away(audit: Any) -> None:
    """The next record begins a new file, so logs can be rotated from outside."""
    await audit.record(delivery(id="a1"))
    old = audit.log.file.rename(audit.log.file.with_suffix(".1"))
    await audit.record(delivery(id="a2"))
    assert [[line["id"] for line in lines(file)] for file in (old, audit.log.file)] == [["a1"], ["a2"]]


async def test_what_cannot_be_written_is_not_handled(audit: Any) -> None:
    """The error leaves the handler, so that the bus tries again."""
    audit.log.file.mkdir()
    with pytest.raises(OSError, match=r"audit\.jsonl"):
        await audit.record(delivery())
    audit.log.file.rmdir()
    await audit.record(delivery())
    assert len(lines(audit.log.file)) == 1


def test_half_a_record_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up within a record leaves the file as it was, and the next record is whole."""
    file = tmp_path / "log"
    append_line(file, b"first")
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:3]))
        with pytest.raises(OSError, match="only a part"):
            append_line(file, b"second")
    assert file.read_bytes() == b"first\n"
    append_line(file, b"third")
    assert file.read_bytes() == b"first\nthird\n"


def test_an_action_of_a_plugin_can_be_recorded_directly(tmp_path: Path) -> None:
    """The record is an `audit.recorded` of that plugin, as it would come over the bus."""
    log = AuditLogger(tmp_path / "audit.jsonl")
    log.log_plugin_action("billing", "permission.denied", {"path": Path("/etc"), "n": 1}, Severity.WARNING)
    log.log_plugin_action("billing", "seen")
    first, second = lines(log.file)
    assert (first["type"], first["source"]) == ("audit.recorded", "/plugins/billing")
    assert AuditRecorded.model_validate(first["data"]) == AuditRecorded(
        plugin_id="billing",
        action="permission.denied",
        severity=Severity.WARNING,
        details=(("path", "/etc"), ("n", "1")),
    )
    assert second["data"]["severity"] == "info"
    assert first["id"] != second["id"]


def test_the_manifest_and_the_handler_name_the_same_patterns() -> None:
    """The group exists before the plugin is loaded, with what the handler subscribes to."""
    manifest = tomllib.loads((Path(__file__).parents[2] / "plugins/audit/plugin.toml").read_text())
    assert manifest["subscribes"] == {"record": list(getattr(Audit.record, ON).patterns)}
