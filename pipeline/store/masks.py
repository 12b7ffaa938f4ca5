"""The section `[masks]` of a contract: how a competition gives masks, and how it wants them back."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.section import Section

Values = Annotated[list[Annotated[int, Field(ge=0, le=65535)]], Field(min_length=1)]


class Masks(Section):
    """Masks are RLE cells of the train table, or files.

    RLE: `order` is that of the pixels (both count from 1). Wide tables have a column a class; long ones a row for an id
    and a class, whose name is in the column `class`, or stands last in the id after `separator` ("7f2.jpg_3"); where
    masks are files that is the form of the sample submission alone. `objects`: the rows of an id repeat, each is one
    object. Files: `pattern` leads to them, one a row, or one a class where it holds {class}; `values` or `colours`
    (#rrggbb) say what stands for each class where one file holds several. `exclusive`: every pixel is of one class.
    """

    pattern: str | None = None
    order: Literal["column", "row"] = "column"
    class_: str | None = Field(None, alias="class", min_length=1)
    separator: str | None = Field(None, min_length=1)
    values: Values | None = None
    colours: Annotated[list[str], Field(min_length=1)] | None = None
    exclusive: bool = False
    objects: bool = False

    @property
    def long(self) -> bool:
        """Say whether rows of RLE are of an id and a class."""
        return self.class_ is not None or self.separator is not None

    @model_validator(mode="after")
    def _one_way(self) -> Masks:
        if self.pattern is not None and "{id}" not in self.pattern:
            raise ValueError(f"masks.pattern must contain {{id}}, got {self.pattern!r}")
        told = self.values or self.colours
        if told and (self.pattern is None or "{class}" in self.pattern):
            raise ValueError("masks.values and masks.colours tell the classes of one file: give masks.pattern for it")
        if self.values and self.colours:
            raise ValueError("masks.values and masks.colours exclude each other")
        if told and len(set(map(str, told))) < len(told):
            raise ValueError("masks.values, masks.colours: one stands there twice")
        odd = [colour for colour in self.colours or [] if not re.fullmatch("#[0-9a-f]{6}", colour)]
        if odd:
            raise ValueError(f'masks.colours are written "#rrggbb" in small letters, got {odd[0]!r}')
        if self.objects and (self.pattern is not None or self.long or self.exclusive):
            raise ValueError("masks.objects: RLE rows of one class, an object each: drop pattern, class and exclusive")
        return self


NO_MASKS = Masks.model_validate({})
