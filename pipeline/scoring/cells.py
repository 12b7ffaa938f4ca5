"""What stands in the cells of a submission: labels, joined labels, the k best, or numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.tasks import TASKS, Task


@dataclass(frozen=True)
class Cells:
    """The answer columns of a submission and what they hold.

    `labels`: decided labels, else numbers; `best` > 0: one cell holds so many labels of a row, the likeliest first;
    `names` are the classes as they stand in the table of record, `written` as the sample writes them.
    """

    task: Task
    columns: list[str]
    names: list[str]
    written: list[str]
    labels: bool
    best: int
    separator: str

    @property
    def joined(self) -> bool:
        """Say whether one cell holds all labels of a row."""
        return self.task.name == "multilabel" and len(self.columns) == 1

    def fill(self, prediction: Array, labels: Array) -> dict[str, Array]:
        """Return the cells of each column for predictions (N P) or the labels decided of them."""
        names, first = np.array(self.written), self.columns[0]
        if self.joined:
            return {first: np.array([self.separator.join(names[row == 1]) for row in labels], object)}
        if self.best:
            order = np.argsort(-prediction, axis=1, kind="stable")[:, : self.best]
            return {first: np.array([self.separator.join(row) for row in names[order]], object)}
        if self.labels and len(self.columns) == 1:
            return {first: names[labels]}
        matrix = self._matrix(labels if self.labels else prediction)
        return {c: matrix[:, self.names.index(c) if len(self.columns) > 1 else 0] for c in self.columns}

    def truth(self, y: Array) -> dict[str, Array]:
        """Return the cells of each column for targets: of the true label alone where a submission names the k best."""
        names, first = np.array(self.written), self.columns[0]
        if self.best:
            return {first: names[y]}
        wide = np.eye(len(self.names))[y] if self.task.name == "multiclass" and y.ndim == 1 else y
        return self.fill(wide.reshape(len(y), -1), y)

    def ranked(self, cells: Sequence[str]) -> Array:
        """Return 1 / (place + 1) of the labels that cells name (N C), 0 for the others; raise KeyError at another."""
        index, found = {name: c for c, name in enumerate(self.written)}, np.zeros((len(cells), len(self.written)))
        for row, cell in enumerate(cells):
            for at, label in enumerate(cell.split(self.separator)):
                found[row, index[label]] = max(found[row, index[label]], 1 / (at + 1))
        return found

    def _matrix(self, filled: Array) -> Array:
        """Return N x (columns in class order): both sides of a binary probability, one-hot for labels of one class."""
        if len(self.columns) == 1:
            return filled.reshape(len(filled), -1)
        if self.labels:
            return filled if filled.ndim == 2 else np.eye(len(self.names), dtype=np.int64)[filled]
        return np.column_stack([1 - filled, filled]) if self.task.name == "binary" else filled


def holds_labels(config: Competition, columns: list[str], label: bool, best: int, where: str) -> bool:
    """Say whether cells hold labels, by the contract or (`format = "auto"`) by columns and metric."""
    wide, task = len(columns) > 1, TASKS[config.task]
    if config.submission.format == "auto":
        one = not wide and task.name in ("multiclass", "multilabel") and not best
        return one or (label and task.cuts)
    labels = config.submission.format == "label"
    if labels and task.name == "regression":
        raise UserError('submission.format = "label" does not fit a regression task: it has no labels')
    if not labels and not wide and task.name in ("multiclass", "multilabel"):
        raise UserError(f'{where} has one column: submission.format = "value" needs one column a class')
    return labels


def best_of(config: Competition, metric: str) -> int:
    """Return how many labels a cell holds, the likeliest first: as the contract or a metric `map_at_k` says."""
    family = re.fullmatch(r"map_at_(\d+)", metric)
    return config.submission.best or (int(family.group(1)) if family else 0)


def written(classes: list[str], cells: Sequence[str]) -> list[str]:
    """Return class names as the sample's cells write them: 3.0 becomes 3 where no cell has a point."""
    whole = all(re.fullmatch(r"-?\d+(\.0*)?", name) for name in classes)
    return [name.split(".")[0] for name in classes] if whole and not any("." in cell for cell in cells) else classes
