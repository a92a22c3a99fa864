"""Whether one model reads what another one writes, judged by their schemas and by pydantic itself."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, create_model

from kernel.schema_diff import differences

Told = list[tuple[str, bool]]


def model(**fields: Any) -> type[BaseModel]:
    """A field is a type (required), or a pair of type and default."""
    given = {name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in fields.items()}
    made: type[BaseModel] = create_model("Model", **given)
    return made


def told(writer: type[BaseModel], reader: type[BaseModel]) -> Told:
    found = differences(writer.model_json_schema(), reader.model_json_schema(), ("shop", "till"))
    assert all(bool(one.fix) is not one.compatible for one in found)
    return [(one.field, one.compatible) for one in found]


class Buyer(BaseModel):
    name: str


class Named(BaseModel):
    name: str
    city: str


class Node(BaseModel):
    value: int
    children: tuple[Node, ...] = ()


class Tree(BaseModel):
    value: str
    children: tuple[Tree, ...] = ()


@pytest.mark.parametrize(
    ("writer", "reader", "expected"),
    [
        (model(a=int), model(a=int), []),
        (model(a=int, b=str), model(a=int), [("b", True)]),
        (model(a=int), model(a=int, b=(str, "")), [("b", True)]),
        (model(a=int), model(a=int, b=str), [("b", False)]),
        (model(a=(int, 1)), model(a=int), [("a", True)]),
        (model(a=int), model(a=str), [("a", False)]),
        (model(a=int), model(a=float), [("a", True)]),
        (model(a=float), model(a=int), [("a", False)]),
        (model(a=int), model(a=int | None), [("a", True)]),
        (model(a=int | None), model(a=int), [("a", False)]),
        (model(a=int | str), model(a=str | int), []),
        (model(a=int | str), model(a=float | bool), [("a", False), ("a", True)]),
        (model(a=str), model(a=datetime), [("a", False)]),
        (model(a=datetime), model(a=str), []),
        (model(a=str), model(a=Any), [("a", True)]),
        (model(a=Any), model(a=str), [("a", False)]),
        (model(a=Literal["x"]), model(a=Literal["x", "y"]), [("a", True)]),
        (model(a=Literal["x", "y"]), model(a=Literal["x"]), [("a", False)]),
        (model(a=Literal["x"]), model(a=str), []),
        (model(a=str), model(a=Literal["x"]), [("a", False)]),
        (model(a=Literal[1]), model(a=Literal[True]), [("a", False)]),
        (model(a=Annotated[int, Field(ge=0)]), model(a=int), []),
        (model(a=int), model(a=Annotated[int, Field(ge=0)]), [("a", False)]),
        (model(a=Annotated[int, Field(gt=0)]), model(a=Annotated[int, Field(ge=0)]), []),
        (model(a=Annotated[int, Field(ge=0)]), model(a=Annotated[int, Field(gt=0)]), [("a", False)]),
        (model(a=Annotated[int, Field(le=9)]), model(a=Annotated[int, Field(lt=9)]), [("a", False)]),
        (model(a=str), model(a=Annotated[str, Field(max_length=3)]), [("a", False)]),
        (model(a=str), model(a=Annotated[str, Field(pattern="^x$")]), [("a", False)]),
        (model(a=list[int]), model(a=list[str]), [("a[]", False)]),
        (model(a=list[int]), model(a=tuple[int, ...]), []),
        (model(a=tuple[int, str]), model(a=tuple[int, int]), [("a[1]", False)]),
        (model(a=dict[str, int]), model(a=dict[str, str]), [("a.*", False)]),
        (model(a=dict[str, int]), model(a=Buyer), [("a.name", False)]),
        (model(a=Buyer), model(a=dict[str, str]), []),
        (model(a=Named), model(a=Buyer), [("a.city", True)]),
        (model(a=Buyer), model(a=Named), [("a.city", False)]),
        (model(a=list[Buyer]), model(a=list[Named]), [("a[].city", False)]),
        (model(a=Buyer | None), model(a=Named | None), [("a.city", False)]),
        (model(a=Decimal), model(a=float), [("a", True)]),
        (model(a=Decimal), model(a=str), [("a", True)]),
        (model(a=float), model(a=Decimal), [("a", True)]),
        (model(a=str), model(a=Decimal), [("a", False)]),
        (model(a=Decimal | None), model(a=float), [("a", False), ("a", True)]),
        (model(a=Decimal), model(a=Decimal), []),
        (model(a=Decimal), model(a=int), [("a", False)]),
        (Node, Node, []),
        (Node, Tree, [("value", False)]),
    ],
)  # fmt: skip
def test_each_difference_is_told_with_what_it_means(
    writer: type[BaseModel], reader: type[BaseModel], expected: Told
) -> None:
    """By field; what is not compatible comes with a fix."""
    found = told(writer, reader)
    if (writer, reader) == (Node, Tree):  # each level of a model that holds itself says the same
        found = found[-1:]
    assert sorted(found) == sorted(expected)


VALUES: dict[Any, list[Any]] = {
    int: [1], str: ["x"], float: [1.5], int | None: [None, 1], Literal["x", "y"]: ["x", "y"], bool: [True],
    datetime: [datetime(2026, 1, 1, tzinfo=UTC)], list[int]: [[1], []], Buyer: [Buyer(name="x")],
    Decimal: [Decimal("1.5")],
}  # fmt: skip
"""Of each kind values such that one that is not compatible shows it."""


@pytest.mark.parametrize("written", list(VALUES), ids=str)
@pytest.mark.parametrize("read", [*VALUES, Named, Any], ids=str)
def test_what_is_called_compatible_is_read(written: Any, read: Any) -> None:
    """By pydantic, from the JSON that the writer's model makes of its values."""
    writer, reader = model(a=written), model(a=read)
    compatible = all(fine for _, fine in told(writer, reader))
    if compatible:
        for value in VALUES[written]:
            reader.model_validate_json(writer(a=value).model_dump_json(), extra="ignore")


def test_a_field_that_is_lacking_is_missed_by_pydantic_too() -> None:
    """The one that matters most, the other way round."""
    assert told(model(a=int), model(a=int, b=str)) == [("b", False)]
    with pytest.raises(ValidationError):
        model(a=int, b=str).model_validate_json(model(a=int)(a=1).model_dump_json())


def test_the_texts_name_both_and_a_name_that_may_be_meant() -> None:
    """And say what to do."""
    writer, reader = model(amount=int).model_json_schema(), model(amont=int).model_json_schema()
    missing, unread = differences(writer, reader, ("shop", "till"))
    assert missing.text == "till requires it, and shop lacks it; shop has 'amount'"
    assert missing.fix == "write 'amount' in till, if that is meant"
    assert unread.text == "till does not read it"
    [kind] = differences(model(a=int).model_json_schema(), model(a=str).model_json_schema(), ("shop", "till"))
    assert kind.text == "is integer; till takes string"
    assert "@upcast" in kind.fix


@pytest.mark.parametrize(
    "strange",
    [
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"properties": {"a": True}, "required": ["a"]},
        {"properties": {"a": {"allOf": [{"$ref": "#"}]}}},
        {"type": "array", "items": False},
        {"enum": []},
    ],
)
def test_strange_schemas_end(strange: dict[str, Any]) -> None:
    """Schemas that hold themselves, lead nowhere or mean nothing are compared, and the comparison ends."""
    usual = model(a=int, b=(str, "")).model_json_schema()
    for writer, reader in ((strange, usual), (usual, strange), (strange, dict(strange, title="other"))):
        assert isinstance(differences(writer, reader), tuple)


def test_parts_of_a_schema_are_read_together() -> None:
    """What `allOf` joins, and types in a list: other ways to say what pydantic says at once."""
    usual = model(a=int, b=str | None).model_json_schema()
    parts = [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"type": ["string", "null"]}}, "required": ["b"]},
    ]
    assert differences(usual, {"allOf": parts}) == differences({"allOf": parts}, usual) == ()
    lacking = model(b=str).model_json_schema()
    assert [(one.field, one.compatible) for one in differences(lacking, {"allOf": parts})] == [
        ("a", False),
        ("b", True),
    ]
