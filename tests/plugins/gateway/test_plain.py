"""Documents that are made when somebody reads them, and those that must be made before."""

import asyncio
import enum
import inspect
import json
import logging
import warnings
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, create_model, field_validator
from starlette.responses import PlainTextResponse

from contracts.errors import PluginLoadError
from contracts.web import WebMount
from plugins.gateway.adapter import build
from plugins.gateway.later import LaterDocument

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    article: str
    price: Decimal = Decimal(0)


class Order(BaseModel):
    """Somebody ordered."""

    number: int = 1
    kind: Literal["a", "b"] | None = None
    lines: tuple[Line, ...]
    colours: dict[str, Colour] = {}
    parent: "Order | None" = None


class Hooked(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return handler(schema)


class Inherited(Hooked): ...


class Raising(Hooked):
    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        raise LookupError("no schema")


class Extra(BaseModel):
    model_config = ConfigDict(json_schema_extra={"type": 5})


class Computed(BaseModel):
    @computed_field
    def five(self) -> int:
        return 5


class Checked(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def check(cls, name: str) -> str:
        return name


class Page(BaseModel, Generic[T]):
    item: T


class Odd(enum.Enum):
    A = (1, 2)


class Within(BaseModel):
    odd: list[Extra]


Names = RootModel[list[str]]
Made = Callable[[], int]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """How many documents FastAPI has made so far."""
    calls: list[str] = []
    usual = FastAPI.openapi

    def counted(app: FastAPI) -> dict[str, Any]:
        calls.append(app.title)
        return usual(app)

    monkeypatch.setattr(FastAPI, "openapi", counted)
    return lambda: len(calls)


def of(answer: Any, **options: Any) -> APIRouter:
    """A router with one route that answers with `answer`."""
    router = APIRouter()

    async def one() -> Any: ...

    router.add_api_route("/one", one, response_model=answer, **options)
    return router


def asking(*parameters: Any) -> APIRouter:
    """A router with one route that takes `parameters`."""

    async def one() -> None: ...

    named = (
        inspect.Parameter(f"p{number}", inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        for number, kind in enumerate(parameters)
    )
    one.__signature__ = inspect.Signature(list(named))  # type: ignore[attr-defined]
    router = APIRouter()
    router.add_api_route("/one", one, methods=["POST"])
    return router


def nested(depth: int) -> type[BaseModel]:
    """A model with two fields of one model, which has two fields of one model …"""
    model: type[BaseModel] = Line
    for number in range(depth):
        model = create_model(f"Level{number}", left=(model, ...), right=(model | None, None))
    return model


def beside(router: APIRouter) -> APIRouter:
    """With a route before and one behind that have a document."""

    async def other() -> int: ...

    made = APIRouter()
    made.add_api_route("/before", other)
    made.routes.extend(router.routes)
    made.add_api_route("/behind", other)
    return made


PLAIN = {
    "nothing": lambda: of(None),
    "scalars": lambda: asking(int, str | None, Literal["a"], date, Colour),
    "a model": lambda: asking(Order),
    "models": lambda: of(list[Order], summary="All", status_code=201, deprecated=True, tags=["orders"]),
    "a description": lambda: of(dict[str, Line | None], description="As they are", operation_id="all"),
    "anything": lambda: of(Any),
    "two of them": lambda: asking(Line, Order),
    "models within models": lambda: of(nested(40)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_document_that_cannot_fail_is_made_when_it_is_read(name: str, made: Made) -> None:
    """Once; building the routes makes none. What it says is what FastAPI says of the same routes."""
    mount = build("shop", 1, PLAIN[name](), ())
    assert made() == 0
    assert mount.openapi is not None
    document = dict(mount.openapi)
    assert (made(), len(mount.openapi), mount.openapi["info"]["title"]) == (1, len(document), "shop")
    included = FastAPI(title="shop", responses={"default": {"description": ""}})
    included.include_router(PLAIN[name](), tags=["plugin:shop"])
    [(_, expected)] = included.openapi()["paths"].items()
    [(_, found)] = document["paths"].items()
    for operation in (*expected.values(), *found.values()):
        del operation["responses"]["default"]
    assert json.loads(json.dumps(found)) == expected


NOT_PLAIN = {
    "an addition by hand": lambda: of(None, openapi_extra={"x-cost": 5}),
    "further responses": lambda: of(None, responses={404: {"description": "none"}}),
    "another kind of response": lambda: of(None, response_class=PlainTextResponse),
    "names of its own": lambda: of(None, generate_unique_id_function=lambda route: "x"),
    "callbacks": lambda: of(None, callbacks=of(int, operation_id="back").routes),
    "a scheme": lambda: of(None, dependencies=[Depends(HTTPBearer())]),
    "a dependency": lambda: asking(Annotated[int, Depends(lambda: 5)]),
    "a tag that is no text": lambda: of(None, tags=[Colour.RED]),
    "an example": lambda: asking(Annotated[int, Query(examples=[5])]),
    "examples": lambda: asking(Annotated[int, Query(openapi_examples={"a": {"value": 5}})]),
    "a bound": lambda: asking(Annotated[int, Field(gt=5)]),
    "a hook": lambda: of(Hooked),
    "an inherited hook": lambda: of(list[Inherited]),
    "computed": lambda: of(Computed),
    "a validator": lambda: asking(Checked),
    "a root model": lambda: of(Names),
    "a generic one": lambda: of(Page[int]),
    "values that are no JSON": lambda: of(Odd),
    "keys that are no text": lambda: of(dict[int, str]),
}
BROKEN = {
    "within a model": lambda: of(Within),
    "within a hook": lambda: asking(dict[str, Raising]),
    "of a response": lambda: of(None, responses={404: {"description": object()}}),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_document_that_could_fail_is_made_at_once(name: str, made: Made) -> None:
    """With anything that is not known to work, it is made while the plugin is prepared."""
    mount = build("shop", 1, NOT_PLAIN[name](), ())
    assert made() == 1
    assert "/one" in (mount.openapi or {})["paths"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_fails_is_found_at_once(name: str) -> None:
    """The plugin is refused, and plugin and route are named."""
    with pytest.raises(PluginLoadError, match="'shop' cannot be built: /one: "):
        build("shop", 1, beside(BROKEN[name]()), ())


def test_operations_of_one_name_are_told_while_it_is_prepared() -> None:
    """FastAPI warns of them as it makes the document."""
    router = of(None, operation_id="same")
    router.routes.extend(of(None, operation_id="same").routes)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        build("shop", 1, router, ())
    assert "Duplicate Operation ID same" in str(told[0].message)


async def test_one_that_fails_all_the_same_does_not_hide_the_others(
    http: Any, context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, once, and the document of all has the others' routes."""
    app = PlainTextResponse("")
    context.mounts.put(WebMount("broken", 1, app, LaterDocument("broken", lambda: 1 / 0)))  # type: ignore[arg-type,return-value]
    context.mounts.put(build("shop", 1, PLAIN["a model"](), ()))
    for _ in range(2):
        document = (await http.get("/openapi.json")).json()
        assert "/plugins/shop/one" in document["paths"]
        context.mounts.put(build("shop", 2, PLAIN["a model"](), ()))
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "plugin broken" in told.getMessage()


async def test_documents_are_made_between_other_work(http: Any, context: Any) -> None:
    """A hundred of them take a while: the loop has its turn after each."""
    happened: list[str] = []

    def making(name: str) -> Callable[[], dict[str, Any]]:
        def make() -> dict[str, Any]:
            happened.append(name)
            asyncio.get_running_loop().call_soon(happened.append, "a turn")
            return {"paths": {}}

        return make

    for name in ("a", "b"):
        context.mounts.put(WebMount(name, 1, PlainTextResponse(""), LaterDocument(name, making(name))))
    await http.get("/openapi.json")
    assert happened == ["a", "a turn", "b", "a turn"]


async def test_no_document_is_made_of_a_generation_that_has_gone(http: Any, context: Any) -> None:
    """While those of others were made: libraries would remember its code, which has been unloaded."""
    app, made = PlainTextResponse(""), []

    def make_first() -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(context.mounts.put, WebMount("second", 2, app))
        return {"paths": {}}

    def make_second() -> dict[str, Any]:
        made.append("second")
        return {"paths": {}}

    for name, make in (("first", make_first), ("second", make_second)):
        context.mounts.put(WebMount(name, 1, app, LaterDocument(name, make)))
    assert (await http.get("/openapi.json")).status_code == 200
    assert made == []
