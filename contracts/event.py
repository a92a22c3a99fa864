"""Events: what plugins publish, and what a handler decides.

An event is known by its type name and version, never by its Python class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from .definition import UPCAST, Upcast, is_immutable, place_of, upcasts_of
from .errors import EventDefinitionError, InvalidEvent, InvalidPattern, field_problems
from .patterns import check_type_name

M = TypeVar("M", bound=BaseModel)


class Event(BaseModel):
    """A fact that a plugin publishes: a frozen model with a type name and an integer version.

    ```python
    class OrderPlaced(Event, type="orders.placed", version=2):
        \"\"\"A customer confirmed an order.\"\"\"
        order_id: str
    ```

    Strict when made: unknown fields are refused. Tolerant when received by another class: unknown
    fields are ignored. A class without `type` is a common base and cannot be published. Raises
    `EventDefinitionError` where the class is made: bad name or version, a field without a JSON schema,
    a gap in the chain of upcasts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if TYPE_CHECKING:
        __event_type__: ClassVar[str]
        __event_version__: ClassVar[int]
        __event_upcasts__: ClassVar[Mapping[int, Upcast]]
        __event_immutable__: ClassVar[bool]
        __event_schema__: ClassVar[dict[str, JsonValue] | None]
    else:  # pydantic would evaluate these annotations anew for each class: a fifth of what making one takes
        __event_type__ = ""
        __event_version__ = 1
        __event_upcasts__ = {}
        __event_immutable__ = False
        __event_schema__ = None

    def __init_subclass__(cls, *, type: str = "", version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, type: str = "", version: int = 1, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.__event_type__ = ""
        if not type:
            return
        try:
            cls.__event_type__ = check_type_name(type)
        except InvalidPattern as error:
            raise EventDefinitionError(str(error), where=place_of(cls), fix=error.fix) from None
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise EventDefinitionError(
                f"event {type!r} has version {version!r}", where=place_of(cls), fix="an integer from 1"
            )
        cls.__event_version__ = version
        cls.__event_upcasts__ = upcasts_of(cls, type, version)
        if cls.__pydantic_complete__:
            event_schema(cls)
        cls.__event_immutable__ = is_immutable(cls)


def upcast(from_version: int) -> Callable[[Callable[..., dict[str, Any]]], Any]:
    """Mark a function of an event class that lifts data of `from_version` to the next version.

    It takes and returns the event's data as a dict. Hops are chained; a handler only ever sees the
    version that its class declares.
    """
    if callable(from_version):
        raise EventDefinitionError(
            "@upcast does not say which version it lifts",
            where=str(getattr(from_version, "__qualname__", from_version)),
            fix="@upcast(1) lifts version 1 to version 2",
        )

    def mark(function: Callable[..., dict[str, Any]]) -> Any:
        target = function.__func__ if isinstance(function, staticmethod) else function
        setattr(target, UPCAST, from_version)
        return staticmethod(target)

    return mark


def event_schema(cls: type[Event]) -> dict[str, JsonValue]:
    """The JSON schema of an event class; made once. Raises `EventDefinitionError` if there is none."""
    found = cls.__dict__.get("__event_schema__")
    if found is None:
        try:
            found = cls.model_json_schema()
        except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
            why = str(error).splitlines()[0]
            raise EventDefinitionError(
                f"event {cls.__event_type__!r} has a field without a JSON schema: {why}",
                where=place_of(cls),
                fix="use JSON types, or a pydantic type that has a JSON schema",
            ) from None
        cls.__event_schema__ = found
    return cast(dict[str, JsonValue], found)


class EventData(BaseModel):
    """An event as data: how it crosses from a worker, from the web, from the command line."""

    model_config = ConfigDict(frozen=True)

    type: str
    version: int = 1
    data: str = "{}"
    """JSON text of an object."""

    @classmethod
    def of(cls, event: Event) -> EventData:
        kind = type(event)
        return cls(type=kind.__event_type__, version=kind.__event_version__, data=dump_event(event).decode())


AnyEvent = Event | EventData


@dataclass(frozen=True, slots=True)
class EventResult:
    """What a handler decided. Make one with the four methods; `None` or an event means `ok`.

    Raising is not a result: the subscription's retry policy judges the error.
    """

    action: Literal["ok", "retry", "discard", "dead_letter"]
    events: tuple[Event | EventData, ...] = ()
    reason: str = ""
    after: float | None = None

    @classmethod
    def ok(cls, *events: Event) -> EventResult:
        """Done. `events` are published before the delivery is acknowledged, with derived ids."""
        return cls("ok", events)

    @classmethod
    def retry(cls, reason: str, *, after: float | None = None) -> EventResult:
        """Try again `after` seconds (None: the policy's backoff). Counts as a failed attempt."""
        return cls("retry", reason=reason, after=after)

    @classmethod
    def discard(cls, reason: str) -> EventResult:
        """Give the event up on purpose; counted and announced."""
        return cls("discard", reason=reason)

    @classmethod
    def dead_letter(cls, reason: str) -> EventResult:
        """Give the event to the dead letters at once, without further attempts."""
        return cls("dead_letter", reason=reason)


HandlerResult = Event | EventResult | None
"""What a handler may return."""


@dataclass(slots=True)  # not frozen: one is made for each publish, and freezing trebles what that costs
class Receipt:
    """The backend has taken the event.

    `duplicate`: the same (source, id) was already taken within the idempotency window; `position` is
    then that of the first.
    """

    id: str
    position: str
    duplicate: bool = False


# --- data to model, model to data -----------------------------------------------------------------


def dump_event(event: BaseModel) -> bytes:
    """JSON bytes of an event's or query's data."""
    return event.__pydantic_serializer__.to_json(event)


def load_model(model: type[M], data: bytes | str, *, what: object) -> M:
    """Make a `model` from JSON; unknown fields are ignored. Raises `InvalidEvent`, which names `what`."""
    try:
        # What `model_validate_json` calls: this runs for each event, and its checks of arguments are felt.
        made: M = model.__pydantic_validator__.validate_json(data, extra="ignore")
    except ValidationError as error:
        raise invalid(str(what), error) from None
    return made


def invalid(what: str, error: ValidationError) -> InvalidEvent:
    """An `InvalidEvent` that lists each field with what was expected."""
    problems = field_problems(error)
    return InvalidEvent(
        f"{what} does not fit: {'; '.join(problems[:5])}",
        errors=problems,
        fix="send the fields that the event's schema names",
    )
