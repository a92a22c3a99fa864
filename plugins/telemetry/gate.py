"""The one processor of ours in a provider of spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

if TYPE_CHECKING:
    from .traces import Export


class Gate(SpanProcessor):
    """A provider keeps its processors for ever: this one stays, and what is behind it comes and goes."""

    def __init__(self, *behind: SpanProcessor) -> None:
        self._behind = behind
        self.export: Export | None = None
        """That of all kernels which have this provider, while `users` of them want it."""
        self.users = 0

    def let_in(self, processor: SpanProcessor) -> None:
        self._behind = (*self._behind, processor)

    def let_out(self, processor: SpanProcessor) -> None:
        self._behind = tuple(each for each in self._behind if each is not processor)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self._behind:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self._behind:
            processor.on_end(span)

    def shutdown(self) -> None:
        """Whoever let something in ends it."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return all(processor.force_flush(timeout_millis) for processor in self._behind)


def gate_of(provider: TracerProvider) -> Gate:
    """Another generation of the plugin, or another kernel, finds the same."""
    found: Gate | None = getattr(provider, "plugbus_gate", None)
    if found is None:
        found = Gate()
        provider.plugbus_gate = found  # type: ignore[attr-defined]  # where they find it
        provider.add_span_processor(found)
    return found
