"""What differs between the tasks, and nowhere else.

Shapes: `N` rows, `C` classes, `L` labels, `T` targets.

| task       | target y          | prediction on the shelf        | cuts             |
|------------|-------------------|--------------------------------|------------------|
| binary     | N, 0/1            | N 1, probability of the second | 1 threshold      |
| multiclass | N, class index    | N C, probabilities, sum 1      | none (arg max)   |
| multilabel | N L, 0/1          | N L, probabilities             | L thresholds     |
| ordinal    | N, grade index    | N 1, grade as a real number    | C-1 cut points   |
| regression | N T, real         | N T, real                      | none             |
| segmentation | N C, share of pixels | maps (`masks.maps`)       | `masks.decide`   |
| several    | columns of all    | columns of all                 | those of all     |

Soft targets are real numbers from 0 to 1 (multiclass: N C, sum 1). What is not known of labels or values is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.errors import UserError
from pipeline.store.files import Array

if TYPE_CHECKING:
    from pipeline.store.config import Competition


@dataclass(frozen=True)
class Task:
    """One task: its heads (the first is the default), whether it predicts probabilities, whether it has cuts."""

    name: str
    heads: tuple[str, ...]
    probabilities: bool
    cuts: bool

    @property
    def dense(self) -> bool:
        """Say whether predictions are maps, one a class, instead of columns."""
        return self.name == "segmentation"

    def width(self, classes: int) -> int:
        """Return the number of prediction columns for `classes` classes, labels or targets."""
        return 1 if self.name in ("binary", "ordinal") else classes

    def targets(self, y: Array) -> Array:
        """Give the table's targets (N T, real) the shape and type of the task: whole, unless soft or unknown."""
        if self.name in ("regression", "segmentation") or (self.name == "multiclass" and y.shape[1] > 1):
            return y
        shaped = y if self.name == "multilabel" else y[:, 0]
        odd = self.probabilities and bool((np.isnan(shaped) | (shaped % 1 != 0)).any())
        return shaped if odd else shaped.astype(np.int64)

    def harden(self, y: Array) -> Array:
        """Return targets as labels: soft ones by what is likeliest (a half is a no); unknown ones stay NaN."""
        if not self.probabilities or y.dtype.kind != "f" or self.name == "segmentation":
            return y
        if self.name == "multiclass":
            return np.asarray(y.argmax(1))
        labels = np.where(np.isnan(y), np.nan, y > 0.5)
        return labels if np.isnan(labels).any() else labels.astype(np.int64)

    def refuse_grades(self, classes: list[str], what: str) -> None:
        """Refuse values of an ordinal task whose grades are not 0, 1, 2, ...: grades are counted here, not measured."""
        if self.name == "ordinal" and [float(c) for c in classes] != list(range(len(classes))):
            raise UserError(f'{what} needs grades 0, 1, 2, ..., not {classes[:5]}: set task = "regression"')

    def default_cuts(self, classes: int) -> Array:
        """Return the untuned cuts: one half between neighbours."""
        if self.name == "ordinal":
            return np.arange(classes - 1) + 0.5
        return np.full(self.width(classes) if self.cuts else 0, 0.5)

    def cut_columns(self, cuts: int) -> list[int]:
        """Return the prediction column that each of the cuts is on."""
        return [0] * cuts if self.name == "ordinal" else list(range(cuts))

    def decide(self, prediction: Array, cuts: Array) -> Array:
        """Turn predictions into labels: class index, 0/1 labels, grade; a value passes unchanged."""
        if self.name == "multiclass":
            return np.asarray(prediction.argmax(1))
        if self.name == "ordinal":
            return np.asarray(np.searchsorted(cuts, prediction[:, 0], side="left"))
        if self.name == "binary":
            return np.asarray(prediction[:, 0] > cuts[0], np.int64)
        return np.asarray(prediction > cuts, np.int64) if self.cuts else prediction

    def strata(self, y: Array, bins: int) -> Array:
        """Return what folds are stratified by: a 0/1 matrix N S (several ones a row for labels, none for unknown)."""
        y = self.harden(y)
        if self.name == "multilabel":
            # A row without any label is a stratum too, else the empty rows pile up in one fold.
            y = np.nan_to_num(y) == 1
            return np.column_stack([y, ~y.any(1)]).astype(np.int64)
        if self.name == "regression":
            # Of several targets the first counts; rows that lack it come last.
            ranks = y[:, 0].argsort(kind="stable").argsort(kind="stable")
            y = ranks * min(bins, len(y)) // max(len(y), 1)
        if self.name == "segmentation":
            y = _size_bins(y.sum(1), bins)
        values, index = np.unique(y, return_inverse=True)
        return np.eye(len(values), dtype=np.int64)[index]


def _size_bins(size: Array, bins: int) -> Array:
    """Return 0 for an empty mask, else in which of `bins` equal shares of the others its size (N) is, from 1."""
    bin_of, there = np.zeros(len(size), np.int64), np.flatnonzero(size > 0)
    order = there[size[there].argsort(kind="stable")]
    bin_of[order] = 1 + np.arange(len(order)) * min(bins, len(order)) // max(len(order), 1)
    return bin_of


TASKS = {
    task.name: task
    for task in (
        Task("binary", ("classification",), probabilities=True, cuts=True),
        Task("multiclass", ("classification",), probabilities=True, cuts=False),
        Task("multilabel", ("classification",), probabilities=True, cuts=True),
        Task("ordinal", ("regression", "classification", "both", "cumulative", "all"), probabilities=False, cuts=True),
        Task("regression", ("regression",), probabilities=False, cuts=False),
        Task("segmentation", ("segmentation",), probabilities=True, cuts=False),
    )
}


@dataclass(frozen=True)
class Piece:
    """One target of several: its task, its name, the weight of its loss.

    And where it stands among the columns of targets and decisions, predictions, cuts, and among the class names.
    """

    task: Task
    name: str
    weight: float
    y: slice
    p: slice
    cuts: slice
    names: slice

    @property
    def classes(self) -> int:
        """Return the number of its classes, labels or values."""
        return int(self.names.stop - self.names.start)

    def of(self, y: Array) -> Array:
        """Return its own targets or decisions of those of all (N T), in the shape of its task."""
        return self.task.targets(y[:, self.y])


@dataclass(frozen=True)
class Several(Task):
    """Several targets side by side: targets and decisions N T, predictions N P and cuts in the order of the pieces."""

    pieces: tuple[Piece, ...]

    def width(self, classes: int) -> int:
        """Return the number of prediction columns of all pieces."""
        return int(self.pieces[-1].p.stop)

    def targets(self, y: Array) -> Array:
        """Return the table's targets as they are; `Piece.of` shapes those of one."""
        return y

    def default_cuts(self, classes: int) -> Array:
        """Return the untuned cuts of all pieces."""
        return np.concatenate([piece.task.default_cuts(piece.classes) for piece in self.pieces])

    def cut_columns(self, cuts: int) -> list[int]:
        """Return the prediction column that each of the cuts is on."""
        return [
            int(piece.p.start) + column
            for piece in self.pieces
            for column in piece.task.cut_columns(int(piece.cuts.stop - piece.cuts.start))
        ]

    def decide(self, prediction: Array, cuts: Array) -> Array:
        """Turn predictions into labels, grades and values, N T."""
        said = [piece.task.decide(prediction[:, piece.p], cuts[piece.cuts]) for piece in self.pieces]
        return np.column_stack(said)

    def strata(self, y: Array, bins: int) -> Array:
        """Return the strata of all pieces side by side: each is spread evenly over the folds."""
        return np.column_stack([piece.task.strata(piece.of(y), bins) for piece in self.pieces])


def task_of(config: Competition, classes: list[str]) -> Task:
    """Return the task of a contract, of several targets with the columns of each, which depend on all their classes."""
    if config.targets is None:
        return TASKS[config.task]
    pieces, y, p, cuts, names = list[Piece](), 0, 0, 0, 0
    for target in config.targets:
        task, count = TASKS[target.task], target.count(classes[names:])
        ends = (
            y + (count if task.name in ("multilabel", "regression") else 1),
            p + task.width(count),
            cuts + len(task.default_cuts(count)),
            names + count,
        )
        places = [slice(start, end) for start, end in zip((y, p, cuts, names), ends, strict=True)]
        pieces.append(Piece(task, target.name, target.weight, *places))
        y, p, cuts, names = ends
    return Several("several", ("auto",), probabilities=False, cuts=cuts > 0, pieces=tuple(pieces))


def refuse_several(config: Competition, where: object, what: str) -> None:
    """Refuse, before anything is computed, what takes one target alone."""
    if config.targets is not None:
        raise UserError(f'{where}: {what} is for one target, not for task = "several"')
