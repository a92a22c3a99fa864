"""Queries: typed questions that a capability answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from .errors import EventDefinitionError, InvalidPattern
from .patterns import check_type_name

R = TypeVar("R")


class Query(BaseModel, Generic[R]):
    """A question of the capability `capability`, answered with an `R`.

    ```python
    class Quote(Query[Price], capability="pricing.quote"):
        sku: str
    price = await context.request(Quote(sku="a"), timeout=1)
    ```

    A query is known by the name of its capability, never by its class: asker and provider may each
    have a class of their own. Strict when made (unknown fields are refused), tolerant when received.
    Raises `EventDefinitionError` where the class is made if the name or the answer's type is unusable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if TYPE_CHECKING:
        __capability__: ClassVar[str]
        __answer__: ClassVar[Any]
        __answer_adapter__: ClassVar[TypeAdapter[Any] | None]
    else:  # as in `Event`: not evaluated anew for each class
        __capability__ = ""
        __answer__ = None
        __answer_adapter__ = None

    def __init_subclass__(cls, *, capability: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, capability: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if not capability:
            return
        where = f"{cls.__module__}.{cls.__qualname__}"
        try:
            cls.__capability__ = check_type_name(capability)
        except InvalidPattern as error:
            raise EventDefinitionError(str(error), where=where, fix=error.fix) from None
        cls.__answer__ = _answer_type(cls)
        if isinstance(cls.__answer__, TypeVar):
            raise EventDefinitionError(
                f"query {cls.__qualname__} does not say what it is answered with",
                where=where,
                fix=f"class {cls.__qualname__}(Query[Answer], capability={capability!r})",
            )


def answer_adapter(query: type[Query[Any]]) -> TypeAdapter[Any]:
    """Validates and serialises the answers of `query`; made once for each class, and kept in it."""
    adapter = query.__dict__.get("__answer_adapter__")
    if adapter is None:
        adapter = TypeAdapter(query.__answer__)
        query.__answer_adapter__ = adapter
    return adapter


def _answer_type(cls: type[Query[Any]]) -> Any:
    for base in cls.__mro__:
        generic = base.__dict__.get("__pydantic_generic_metadata__")
        if generic and generic["origin"] is Query:
            return generic["args"][0]
    return R
