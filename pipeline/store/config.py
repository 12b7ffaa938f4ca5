"""The contract of a competition: the schema of `configs/<competition>/competition.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError, nearest
from pipeline.store.section import Positive, Section, Seed, validate
from pipeline.store.toml import read_toml

TaskName = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]


class Images(Section):
    """Where the images lie and how they are read."""

    pattern: str = "{split}_images/{id}"
    train: str = "train"
    test: str = "test"
    channels: Literal["grey", "rgb", "rgba"] = "rgb"
    depth: Literal[8, 16] = 8

    @model_validator(mode="after")
    def _has_id(self) -> Images:
        if "{id}" not in self.pattern:
            raise ValueError(f"images.pattern must contain {{id}}, got {self.pattern!r}")
        return self


class Group(Section):
    """What must never be divided between folds: a column, a second table, or a pattern on the id."""

    column: str | None = None
    table: str | None = None
    id: str | None = None
    pattern: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Group:
        if (self.column is None) == (self.pattern is None):
            raise ValueError("[group] takes either column (of train.csv, or of `table`) or pattern (on the id)")
        return self


class Folds(Section):
    """How rows are split."""

    method: Literal["auto", "kfold", "stratified", "group", "stratified-group", "multilabel", "predefined"] = "auto"
    n: Annotated[int, Field(ge=2)] = 5
    seed: Seed = 0
    bins: Annotated[int, Field(ge=2)] = 10
    column: str | None = None


class Submission(Section):
    """The file Kaggle accepts."""

    sample: str = "sample_submission.csv"
    format: Literal["auto", "label", "value"] = "auto"
    best: Annotated[int, Field(ge=0)] = 0


class Competition(Section):
    """The contract of a competition: `configs/<competition>/competition.toml`."""

    task: TaskName
    metric: str
    metric_greater: bool | None = None
    metric_weights: dict[str, Positive] | None = None
    metric_per_group: bool = False
    built_in: str | None = None
    train: str = "train.csv"
    test: str | None = None
    id: str
    target: str | Annotated[list[str], Field(min_length=1)]
    separator: str | None = None
    classes: list[str] | None = None
    weight: str | None = None
    soft: bool = False
    unknown: Literal["refuse", "mask"] = "refuse"
    images: Images = Images()
    group: Group | None = None
    folds: Folds = Folds()
    submission: Submission = Submission()

    @model_validator(mode="after")
    def _targets_fit_task(self) -> Competition:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name stands there twice")
        if isinstance(self.target, list) and self.task in ("binary", "ordinal"):
            raise ValueError(f"target: a {self.task} task has one target column, got {self.target}")
        if self.separator is not None and self.task != "multilabel":
            raise ValueError("separator: only a multilabel task has a column of joined labels")
        if self.task == "multilabel" and isinstance(self.target, str) and self.separator is None:
            raise ValueError('separator: a multilabel task with one column needs it, for example separator = " "')
        return self

    @model_validator(mode="after")
    def _metric_and_targets(self) -> Competition:
        if self.metric.endswith(".py") != (self.metric_greater is not None):
            raise ValueError("metric_greater: a metric file needs it (true: more is better); no other metric takes it")
        if self.metric_per_group and self.group is None:
            raise ValueError("metric_per_group: the metric is the mean over groups: say in [group] what they are")
        if self.soft:
            one = isinstance(self.target, str)
            if self.task not in ("binary", "multiclass", "multilabel") or (one != (self.task == "binary")):
                raise ValueError("soft: one column of a binary task, or a column for each class or label")
            if one and (self.classes is None or len(self.classes) != 2):
                raise ValueError(
                    'soft: the column is the probability of the second class: name both, classes = ["no", "yes"]'
                )
        if self.unknown == "mask" and not (self.task in ("multilabel", "regression") and isinstance(self.target, list)):
            raise ValueError('unknown: "mask" is for several columns of labels or values')
        if self.submission.best and (self.task != "multiclass" or self.submission.format != "auto"):
            raise ValueError("submission.best: the likeliest labels of a row, in one cell, are of a multiclass task")
        return self


def load_competition(name: str) -> Competition:
    """Read and check the contract of a competition; a metric file is looked for beside it."""
    path = CompetitionFiles(name).config
    if not path.exists():
        known = [p.parent.name for p in path.parent.parent.glob("*/competition.toml")]
        raise UserError(f"no competition {name!r}: {path} does not exist; {nearest(name, known)}")
    config = validate(Competition, read_toml(path), path)
    if not config.metric.endswith(".py"):
        return config
    return config.model_copy(update={"metric": str(path.parent / config.metric)})
