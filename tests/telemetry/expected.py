"""What a span that came over the wire is to be: rows of a table, compared whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from receiver import Exported


class Same:
    """Equal to whatever it is compared with first, if that fits; then to nothing else."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self._said: str | None = None

    def __eq__(self, other: object) -> bool:
        if self._said is None and isinstance(other, str) and self._pattern.fullmatch(other):
            self._said = other
        return self._said is not None and self._said == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._pattern.pattern}>" if self._said is None else repr(self._said)


@dataclass(frozen=True)
class Row:
    """One span. Other spans are named by their keys in the table."""

    name: str
    kind: str
    below: str
    on: str
    """The service: which kernel has made it."""
    attributes: Mapping[str, Any]
    links: tuple[str, ...] = ()
    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    status: tuple[str, str] = ("unset", "")

    def is_of(self, span: Exported) -> bool:
        """What tells the spans of one flow apart."""
        attempts = (told.get("plugbus.attempt", 1) for told in (self.attributes, span.attributes))
        return (self.name, self.kind) == (span.name, span.kind) and len(set(attempts)) == 1


def rows_of(spans: Sequence[Exported], table: Mapping[str, Row], outside: str) -> dict[str, Row]:
    """`spans` as rows, each under the key of its row in `table`; what is in none under its own name."""
    keys = {span.span_id: _key_of(span, table) for span in spans}
    assert len(set(keys.values())) == len(spans), sorted(keys.values())
    keys[outside] = "caller"
    return {
        keys[span.span_id]: Row(
            span.name, span.kind, keys.get(span.parent_id, span.parent_id), span.resource["service.name"],
            span.attributes, tuple(keys.get(id, id) for trace, id in span.links if trace == span.trace_id),
            span.events, span.status,
        )
        for span in spans
    }  # fmt: skip


def _key_of(span: Exported, table: Mapping[str, Row]) -> str:
    return next((key for key, row in table.items() if row.is_of(span)), f"{span.name} {span.span_id}")
