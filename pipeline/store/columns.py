"""Columns beside the targets: metadata that join the head, and what may be learnt beside the targets."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.store.section import Section


class Metadata(Section):
    """Columns that join the head: of the train and test tables, or of `table`, whose column `id` finds the rows."""

    numeric: list[str] = Field(default_factory=list)
    categorical: list[str] = Field(default_factory=list)
    table: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _some(self) -> Metadata:
        names = [*self.numeric, *self.categorical]
        if not names or len(set(names)) < len(names):
            raise ValueError("[metadata] takes numeric = [...] and categorical = [...], every column once")
        return self


class Auxiliary(Section):
    """Columns of the train table that a run may learn beside its targets (`loss.auxiliary`); nobody predicts them."""

    numeric: list[str] = Field(default_factory=list)
    categorical: list[str] = Field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Return the columns, numeric ones first."""
        return [*self.numeric, *self.categorical]

    @model_validator(mode="after")
    def _some(self) -> Auxiliary:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError("[auxiliary] takes numeric = [...] and categorical = [...], every column once")
        return self
