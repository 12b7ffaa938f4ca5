"""What every config schema is made of: unknown keys are refused, the nearest known one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.store.errors import UserError, nearest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A table of a config: frozen, nothing unknown, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


S = TypeVar("S", bound=Section)


def refuse_idle(section: Section, switch: str, *about: str) -> None:
    """Refuse settings (`about`; none: all others) that nobody asks for, as `switch` is not said (ValueError)."""
    given = section.model_fields_set
    idle = sorted(given & set(about or type(section).model_fields))
    if idle and switch not in given:
        raise ValueError(f"{idle[0]} does nothing by itself: say {switch}, too")


def validate(schema: type[S], settings: dict[str, Any], path: Path) -> S:
    """Check settings against a schema; the first mistake becomes one line with file, key and nearest known key."""
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        # Where a key may be of several kinds, pydantic adds the kind, which is no place.
        place = ".".join(str(part) for part in first["loc"] if str(part).isalnum() or str(part).isidentifier())
        if first["type"] == "extra_forbidden":
            owner = _section_at(schema, first["loc"][:-1])
            raise UserError(f"{path}: unknown key {place!r}; {nearest(str(first['loc'][-1]), owner)}") from None
        got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] in ("model_type", "dict_type"):
            message = f"it is a table, as in {place} = {{ key = value }}"
        raise UserError(f"{path}: {place + ': ' if place else ''}{message}{got}") from None


def _section_at(schema: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that may stand at `place` in a schema."""
    for part in place:
        if not isinstance(part, int):  # the place in a list has no schema of its own
            schema = next(_models(schema.model_fields[part].annotation))
    return [field.alias or name for name, field in schema.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the schemas that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
