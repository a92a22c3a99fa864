"""Exports spans by OTLP over HTTP, where the standard variables ask for it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .backend import Backend, can_export, endpoint, not_installed, within, wrong_variable
from .export_queue import ExportQueue, room_of
from .gate import Gate

_REST = 1.0
"""Seconds after a failed export in which none is tried."""


class Patient(SpanExporter):
    """Exports; says once when that does not work, and once when it does again; counts what is lost.

    After a failure it rests: to encode what is refused takes as much of the processor as what is accepted.
    Where that makes sense the exporter itself has tried again already.
    """

    def __init__(self, inner: SpanExporter, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._clock = clock
        self._rests_until = -math.inf
        self._backend = Backend("traces", "TRACES", where)
        self.taken = self.lost = 0

    def begin(self) -> None:
        self._backend.begin()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        if self._clock() < self._rests_until:
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        is_taken = result is SpanExportResult.SUCCESS
        if not is_taken:
            self.lost += len(spans)
            self._rests_until = self._clock() + _REST
        self._backend.told(is_taken, f"; {self.lost} spans were lost")
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
        self._backend.end()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class Export(NamedTuple):
    processor: ExportQueue
    """Before one with a thread of its own; what does not fit into its queue is dropped."""
    exporter: Patient

    @property
    def lost(self) -> int:
        return self.exporter.lost + self.processor.dropped


def exporting(environment: Mapping[str, str]) -> Export | None:
    """What the standard variables ask for; None where they ask for nothing, or for what cannot be had.

    That is said: a variable that is wrong costs the traces, never the kernel.
    """
    if not can_export(environment, "TRACES"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = Patient(OTLPSpanExporter(), endpoint(environment, "TRACES"))
        batches = BatchSpanProcessor(exporter)
    except ImportError:
        not_installed("traces", "TRACES")
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is that a variable has led to
        wrong_variable("traces", error)
        return None
    exporter.begin()
    return Export(ExportQueue(batches, room_of(environment), lambda: exporter.taken), exporter)


def share_export(gate: Gate) -> Export | None:
    """That of the gate's provider, begun here if there is none. Who gets one ends it once."""
    if gate.export is None:
        gate.export = exporting(os.environ)
        if gate.export is None:
            return None
        gate.let_in(gate.export.processor)
    gate.users += 1
    return gate.export


async def end_export(gate: Gate, seconds: float) -> None:
    """With the last who has it it ends, for which it has so many seconds."""
    gate.users -= 1
    if gate.export is not None and not gate.users:
        processor, gate.export = gate.export.processor, None
        gate.let_out(processor)
        await within(seconds, processor.shutdown, "spans")
