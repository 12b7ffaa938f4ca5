"""The contract of a competition: the schema of `configs/<competition>/competition.toml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.columns import Auxiliary, Metadata
from pipeline.store.errors import UserError, nearest
from pipeline.store.folds import Folds
from pipeline.store.masks import NO_MASKS, Masks
from pipeline.store.section import Count, Positive, Section, validate
from pipeline.store.target import Columns, Target, refuse_misfit, refuse_overlap, together
from pipeline.store.toml import read_toml

TaskName = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "segmentation", "several"]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class Images(Section):
    """Where the images lie and how they are read.

    A row may have several files: `channel` lists the values of {channel} in the pattern, whose files are stacked,
    `view` those of {view} (sites, slices, patches), which are joined into one prediction; `missing` is about views.
    """

    pattern: str = "{split}_images/{id}"
    train: str = "train"
    test: str = "test"
    channels: Literal["grey", "rgb", "rgba"] | Count = "rgb"
    depth: Literal[8, 16, 32] = 8
    channel: Names | None = None
    view: Names | None = None
    missing: Literal["error", "skip"] = "error"
    decoder: str | None = None

    @property
    def each(self) -> int:
        """Return the number of channels of one file."""
        return self.channels if isinstance(self.channels, int) else {"grey": 1, "rgb": 3, "rgba": 4}[self.channels]

    @property
    def width(self) -> int:
        """Return the number of channels of one view."""
        return self.each * len(self.channel or [""])

    @property
    def views(self) -> int:
        """Return the number of views of a row."""
        return len(self.view or [""])

    @model_validator(mode="after")
    def _pattern_fits(self) -> Images:
        if "{id}" not in self.pattern:
            raise ValueError(f"images.pattern must contain {{id}}, got {self.pattern!r}")
        for name in ("channel", "view"):
            if (f"{{{name}}}" in self.pattern) != (getattr(self, name) is not None):
                raise ValueError(
                    f"images.{name} lists the values of {{{name}}} in images.pattern: give both or neither"
                )
        if (self.channel or self.view) and ("**/" in self.pattern or self.pattern.endswith(".*")):
            raise ValueError("images.pattern: `**/` and `.*` do not go with {channel} and {view}: spell the path out")
        if self.missing == "skip" and self.view is None:
            raise ValueError('images.missing = "skip" is about views: give images.view')
        return self


class Extra(Section):
    """Labelled rows from elsewhere: every fold learns from those that share no group or image with it; never scored."""

    table: str
    pattern: str

    @model_validator(mode="after")
    def _has_id(self) -> Extra:
        if "{id}" not in self.pattern:
            raise ValueError(f"extra.pattern must contain {{id}}, got {self.pattern!r}")
        return self


class Group(Section):
    """What must never be divided between folds: a column, a second table, a pattern on the id, tiles that fit."""

    column: str | None = None
    table: str | None = None
    id: str | None = None
    pattern: str | None = None
    mosaic: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Group:
        if (self.column is not None) + (self.pattern is not None) + self.mosaic != 1:
            raise ValueError(
                "[group] takes either column (of train.csv, or of `table`), pattern (on the id) or mosaic = true "
                "(tiles whose borders fit)"
            )
        return self


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
    target: Columns = Field(default_factory=list)
    targets: Annotated[list[Target], Field(min_length=2)] | None = None
    separator: str | None = None
    classes: list[str] | None = None
    weight: str | None = None
    soft: bool = False
    unknown: Literal["refuse", "mask"] = "refuse"
    images: Images = Images()
    masks: Masks = NO_MASKS
    metadata: Metadata | None = None
    auxiliary: Auxiliary | None = None
    extra: Extra | None = None
    unlabelled: str | None = None
    group: Group | None = None
    folds: Folds = Folds()
    submission: Submission = Submission()

    @model_validator(mode="before")
    @classmethod
    def _several(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Fill in what several targets say together, their columns and a metric that is the mean of theirs."""
        return given | together(given)

    @property
    def parts(self) -> list[Competition]:
        """Return the contract of each of several targets, as if it were alone; [] where there is one."""
        keys = ("task", "metric", "target", "separator", "classes")
        alone = [{"targets": None} | {key: getattr(part, key) for key in keys} for part in self.targets or []]
        return [self.model_copy(update=settings) for settings in alone]

    @model_validator(mode="after")
    def _targets_fit_task(self) -> Competition:
        if not self.target and self.task != "segmentation":
            raise ValueError("target: name the column, or columns, of the train table")
        refuse_misfit(self.task, self.target, self.separator, self.classes)
        if self.unlabelled is not None and (self.images.channel or self.images.view):
            raise ValueError("unlabelled: files of several channels or views cannot be put together by a glob")
        return self

    @model_validator(mode="after")
    def _masks_fit_task(self) -> Competition:
        if self.task != "segmentation":
            if self.masks != NO_MASKS:
                raise ValueError(f'[masks] is for task = "segmentation", not for a {self.task} task')
            return self
        columns, masks = [self.target] if isinstance(self.target, str) else self.target, self.masks
        if (masks.pattern is None) != bool(columns):
            raise ValueError("target names the RLE column, or columns; masks in files have masks.pattern instead")
        if len(columns) > 1 and (masks.long or masks.objects):
            raise ValueError("target: long forms and masks.objects have one RLE column")
        several = masks.values or masks.colours or "{class}" in (masks.pattern or "")
        if (several and self.classes is None) or len(self.classes or []) != len(
            masks.values or masks.colours or self.classes or []
        ):
            raise ValueError("classes: name the class of each value, colour or {class} of the mask files, in order")
        if self.classes and not (several or masks.long) and len(self.classes) != max(len(columns), 1):
            raise ValueError("classes: give one name for each RLE column, or leave them out")
        if self.images.view:
            raise ValueError("images.view: a mask is of one image")
        if self.metric == "dsb_precision" and (masks.exclusive or len(columns) > 1 or len(self.classes or []) > 1):
            raise ValueError("metric: dsb_precision compares the objects of one class; choose another for several")
        if self.metric.endswith(".py") or self.metric_per_group:
            raise ValueError(
                "metric: masks are scored by one of ours, image by image: no metric file or mean of groups"
            )
        return self

    @model_validator(mode="after")
    def _auxiliary_are_others(self) -> Competition:
        if self.auxiliary is None:
            return self
        if self.task == "segmentation":
            raise ValueError("[auxiliary] is learnt by a head, and masks have none")
        targets = [self.target] if isinstance(self.target, str) else self.target
        known = [self.id, *targets, *((*self.metadata.numeric, *self.metadata.categorical) if self.metadata else ())]
        odd = next((name for name in self.auxiliary.names if name in known), None)
        if odd is not None:
            raise ValueError(f"[auxiliary]: column {odd!r} is the id, a target or metadata already: leave it out")
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
        if self.targets is not None:
            refuse_overlap(self.targets)
            if self.submission.format != "auto":
                raise ValueError("submission.format: of several targets each is written as its metric wants it")
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
