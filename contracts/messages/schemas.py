"""Whether one model of an event can read what another one writes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, computed_field

from ..query import Query


class SchemaDifference(BaseModel):
    """One difference between what is written and what is read."""

    model_config = ConfigDict(frozen=True)

    field: str
    """`total`, `buyer.name`, `items[].sku`, `prices.*`; empty for the whole event."""
    text: str
    compatible: bool
    """Whether what is written can be read in spite of it."""
    fix: str = ""
    """For what is not compatible."""


class SchemaSide(BaseModel):
    """A model of an event."""

    model_config = ConfigDict(frozen=True)

    version: int
    plugin_id: str
    """Whose it is."""


class SchemaComparison(BaseModel):
    """What `writer` writes, as `reader` sees it."""

    model_config = ConfigDict(frozen=True)

    writer: SchemaSide
    reader: SchemaSide
    differences: tuple[SchemaDifference, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # pydantic reads the property below it
    @property
    def compatible(self) -> bool:
        """Whether all differences are."""
        return all(difference.compatible for difference in self.differences)


class EventDiff(BaseModel):
    """The models of one event type, compared."""

    model_config = ConfigDict(frozen=True)

    type: str
    versions: tuple[int, ...]
    """All that the catalogue has."""
    comparisons: tuple[SchemaComparison, ...] = ()
    """Between the two versions, where they are two; then of each publisher and handler of one version."""


class DiffEventType(Query[EventDiff], capability="kernel.event.diff"):
    """Compare two versions of an event type, or the models of those who publish and handle one version.

    With neither version: the newest two, and the models of every version. With the same version twice: its
    models alone. With one: that and its neighbour, the next newer for `from_version`.
    """

    type: str
    from_version: int | None = Field(default=None, ge=1)
    to_version: int | None = Field(default=None, ge=1)
