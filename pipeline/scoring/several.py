"""The metric of several targets: the weighted mean of those of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.scoring.metrics import Metric, get_metric
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.tasks import TASKS, Piece, Several, Task


@dataclass(frozen=True)
class Together(Metric):
    """The mean of the metrics of several targets by their shares.

    Where all of them are losses so is the mean; else more is better, and a loss enters it with a minus.
    """

    parts: tuple[Metric, ...] = ()
    of: tuple[float, ...] = ()

    def wanted(self, task: Task, prediction: Array, cuts: Array) -> Array:
        """Return what the metrics are given of predictions (N P), side by side (N G)."""
        pairs = zip(self.parts, pieces_of(task), strict=True)
        return np.column_stack([m.wanted(p.task, prediction[:, p.p], cuts[p.cuts]) for m, p in pairs])

    def split(self, task: Task, guess: Array) -> list[Array]:
        """Return what each of the metrics is given, in the shape of its task, of what `wanted` returned."""
        at, found = 0, []
        for metric, piece in zip(self.parts, pieces_of(task), strict=True):
            place = piece.y if metric.label else piece.p
            mine, at = guess[:, at : at + place.stop - place.start], at + place.stop - place.start
            single = mine[:, 0] if piece.task.name in ("binary", "ordinal") else mine
            found.append(piece.task.targets(mine) if metric.label else single)
        return found

    def score(self, task: Task, y: Array, guess: Array, weight: Array) -> float:
        """Return the mean over the targets."""
        rows = zip(self.parts, pieces_of(task), self.split(task, guess), strict=True)
        scores = [metric.score(piece.task, piece.of(y), mine, weight) for metric, piece, mine in rows]
        signs = [1 if metric.greater == self.greater else -1 for metric in self.parts]
        return float(np.average(np.multiply(signs, scores), weights=self.of))

    def refuse_grades(self, task: Task, classes: list[str]) -> None:
        """Refuse grades that a metric of values would have to measure."""
        for metric, piece in zip(self.parts, pieces_of(task), strict=True):
            metric.refuse_grades(piece.task, [name.removeprefix(f"{piece.name}=") for name in classes[piece.names]])


def pieces_of(task: Task) -> tuple[Piece, ...]:
    """Return the targets of a task of several."""
    assert isinstance(task, Several)
    return task.pieces


def together(config: Competition, where: str) -> Together:
    """Return the metric of a contract with several targets."""
    parts = []
    for part in config.targets or []:
        try:
            parts.append(get_metric(part.metric, TASKS[part.task]))
        except UserError as error:
            raise UserError(f"{where}: target {part.name!r}: {error}") from None
    greater, shares = any(metric.greater for metric in parts), tuple(part.share for part in config.targets or [])
    label = any(metric.label for metric in parts)
    return Together("several", _apart, label, greater, ("several",), parts=tuple(parts), of=shares)


def _apart(y: Array, p: Array, weight: Array) -> float:
    raise NotImplementedError("several targets are scored one by one")
