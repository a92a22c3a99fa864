"""`plugbus event …`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from kernel.cli.sse import ServerEvent, parse

from .conftest import CannedKernel, Plugbus

RECEIPT = {"id": "1", "position": "7", "duplicate": False}


def _event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "/shop",
        "type": "orders.placed",
        "time": "2026-01-02T03:04:05.678Z",
        "data": {"order_id": number},
        **more,
    }


def _frame(event: dict[str, Any], position: int) -> bytes:
    return f"event: event\nid: {position}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


BYE = b"event: bye\nretry: 1\ndata: {}\n\n"


def test_an_event_is_published_as_a_structured_cloud_event(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Fields become data, JSON where they are JSON; options become attributes."""
    kernel.answer("POST /events", RECEIPT, 202)
    ended = plugbus(
        "event", "publish", "orders.placed", "order_id=41", "note=a=b", "tags=[1]", "vip=true",
        "--key", "k", "--id", "1", "--subject", "s", "--source", "/me", "--version", "2",
    )  # fmt: skip
    assert ended.out == "published orders.placed id=1 position=7\n"
    assert kernel.last.headers["content-type"] == "application/cloudevents+json"
    assert kernel.last.body == {
        "specversion": "1.0",
        "id": "1",
        "source": "/me",
        "type": "orders.placed",
        "datacontenttype": "application/json",
        "dataschema": "urn:plugbus:orders.placed:2",
        "partitionkey": "k",
        "subject": "s",
        "data": {"order_id": 41, "note": "a=b", "tags": [1], "vip": True},
    }


def test_data_may_come_as_json_from_a_file_or_from_stdin(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ways to say the same; each event has an id of its own."""
    kernel.answer("POST /events", RECEIPT, 202)
    (folder / "event.json").write_text('{"a": "ü"}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO('{"a": "ü"}'.encode()), encoding="utf-8"))
    for words in (("--data", '{"a": "ü"}'), ("--file", "event.json"), ("--file", "-")):
        assert plugbus("event", "publish", "a.b", *words).code == 0
    assert [asked.body["data"] for asked in kernel.asked] == [{"a": "ü"}] * 3
    assert len({asked.body["id"] for asked in kernel.asked}) == 3


def test_a_repetition_is_said_to_be_one(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The receipt's `duplicate` is told."""
    kernel.answer("POST /events", RECEIPT | {"duplicate": True}, 202)
    assert "known already" in plugbus("event", "publish", "a.b").out
    assert plugbus("event", "publish", "a.b", "--json").json["item"]["duplicate"] is True


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--data", "{"), "data: not JSON"),
        (("--data", "[1]"), "data: not an object but list"),
        (("--file", "missing.json"), "file: cannot be read"),
    ],
)
def test_unusable_data_are_refused_before_anything_is_sent(
    plugbus: Plugbus, kernel: CannedKernel, words: tuple[str, ...], what: str
) -> None:
    """What, at, fix; exit code 1."""
    ended = plugbus("event", "publish", "a.b", *words)
    assert (ended.code, ended.err.startswith(what), kernel.asked) == (1, True, [])


def test_tail_prints_an_event_a_line_until_its_limit(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Time, type, key, id, data; patterns go to the kernel."""
    kernel.streams = [[_frame(_event(1, partitionkey="k"), 1), _frame(_event(2), 2), _frame(_event(3), 3)]]
    ended = plugbus("event", "tail", "orders.*", "host.**", "--limit", "2")
    first, second = ended.out.splitlines()
    assert first.endswith('05.678 orders.placed key=k id=e1  {"order_id":1}')
    assert second.endswith('05.678 orders.placed id=e2  {"order_id":2}')
    assert kernel.last.query == {"pattern": ["orders.*", "host.**"]}


def test_tail_without_a_pattern_reads_everything_of_the_plugins(
    plugbus: Plugbus, kernel: CannedKernel
) -> None:
    """The pattern `**`."""
    kernel.streams = [[_frame(_event(1), 1)]]
    plugbus("event", "tail", "--limit", "1")
    assert kernel.last.query == {"pattern": ["**"]}


def test_tail_as_json_is_one_cloud_event_a_line(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """NDJSON in pure ASCII; text with U+2028 stays on its line, a control character reaches no terminal."""
    events = [_event(1, data={"text": "a\u2028b\u0085c\x9bd"}), _event(2)]
    kernel.streams = [[_frame(event, number) for number, event in enumerate(events)]]
    ended = plugbus("event", "tail", "--json", "--limit", "2")
    assert ended.out.isascii()
    assert [json.loads(line) for line in ended.out.splitlines()] == events


def test_tail_goes_on_after_the_last_event_when_the_stream_ends(
    plugbus: Plugbus, kernel: CannedKernel
) -> None:
    """After `bye` and after a stream that is cut off, with Last-Event-ID; nothing twice, nothing lost."""
    cut = b'event: event\nid: 3\ndata: {"id":'
    kernel.streams = [[_frame(_event(1), 1), BYE], [_frame(_event(2), 2), cut], [_frame(_event(3), 3)]]
    ended = plugbus("event", "tail", "--json", "--limit", "3")
    assert [json.loads(line)["id"] for line in ended.out.splitlines()] == ["e1", "e2", "e3"]
    assert [asked.headers.get("last-event-id") for asked in kernel.asked] == [None, "1", "2"]
    assert "waiting for the kernel" in ended.err


def test_tail_says_what_it_missed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """A gap is told beside the events, not among them."""
    kernel.streams = [[b'event: gap\ndata: {"missed": 12}\n\n', _frame(_event(1), 13)]]
    ended = plugbus("event", "tail", "--limit", "1")
    assert (ended.err, len(ended.out.splitlines())) == ("12 events were skipped\n", 1)


def test_tail_is_refused_like_any_command(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """A wrong token is not a lost stream."""
    kernel.streams = [[]]
    ended = plugbus("event", "tail", "--token", "wrong")
    assert (ended.code, len(kernel.asked)) == (7, 1)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_server_sent_events_are_read_in_pieces_of_any_size(end: bytes, size: int) -> None:
    """All three line ends, comments, several data lines, an event that is cut off at the end."""
    text = b": hello\n\nevent: a\nid: 1\ndata: x\ndata:y\nretry: 1500\n\ndata\n\ndata: cut".replace(
        b"\n", end
    )
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    first, second = parse(pieces)
    assert first == ServerEvent("a", ["x", "y"], "1", 1.5)
    assert (first.data, second.data) == ("x\ny", "")
