"""The section of a contract on how rows are split into folds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.encoder import Encoder
from pipeline.store.section import Count, Section, Seed

Method = Literal[
    "auto", "kfold", "stratified", "group", "stratified-group", "multilabel", "iterative", "time", "predefined"
]


class Folds(Section):
    """How rows are split: `near` joins images whose hashes differ in so many of 64 bits (0: identical ones only).

    `alike` joins those whose small pictures lie within a cosine distance (1 - correlation; 0: none); so many `clusters`
    of small pictures are spread evenly over the folds, beside the classes (0: none). With an `encoder` its features are
    compared instead. The `holdout` is of all rows alike, or of those that look most like `test`.
    """

    method: Method = "auto"
    n: Annotated[int, Field(ge=2)] = 5
    seed: Seed = 0
    bins: Annotated[int, Field(ge=2)] = 10
    column: str | None = None
    order: str | None = None
    gap: Annotated[float, Field(ge=0)] = 0.0
    near: Annotated[int, Field(ge=0, le=16)] = 0
    alike: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    clusters: Annotated[int, Field(ge=0)] = 0
    encoder: Encoder | None = None
    repeats: Count = 1
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    holdout_like: Literal["all", "test"] = "all"

    @model_validator(mode="after")
    def _one_scheme(self) -> Folds:
        if self.column is not None and self.order is not None:
            raise ValueError("folds: column (a given split) and order (blocks in time) exclude each other")
        given = "time" if self.order is not None else "predefined" if self.column is not None else None
        for method, key in (("time", "order"), ("predefined", "column")):
            if self.method == method and given != method:
                raise ValueError(f'folds.method = "{method}" needs folds.{key}, a column of the train table')
            if given == method and self.method not in ("auto", method):
                raise ValueError(f'folds.{key} goes with folds.method = "{method}"')
        if self.gap and self.order is None:
            raise ValueError("folds.gap is a time between blocks: it needs folds.order")
        if given and self.repeats > 1:
            raise ValueError(f"folds.repeats: a split by folds.{'order' if self.order else 'column'} has one form only")
        if self.column is not None and self.holdout:
            raise ValueError("folds.holdout: with folds.column, give the rows of the holdout the fold -2 there")
        if 0 < self.holdout < 0.01:
            raise ValueError("folds.holdout is a share of the labelled rows: 0, or 0.01 to 0.5")
        if self.holdout_like == "test" and (self.order is not None or not self.holdout):
            raise ValueError('folds.holdout_like = "test" needs folds.holdout, a share, and no folds.order')
        if self.encoder and not (self.alike or self.clusters or self.holdout_like == "test"):
            raise ValueError("folds.encoder says what images look like: give folds.alike, clusters or holdout_like")
        return self
