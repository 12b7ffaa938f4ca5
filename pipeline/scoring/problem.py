"""What is scored: targets, folds and groups of rows, their weights, and the metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.masks.metrics import MASK_METRICS, MaskMetric
from pipeline.scoring.metrics import Metric
from pipeline.scoring.several import Together
from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.tasks import Several, Task

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table


@dataclass(frozen=True)
class Problem:
    """N rows of a task, scored by a metric.

    `group` is drawn together in a bootstrap; `weight` are sample weights (None: all 1); of a grouped metric `blocks`
    are the groups. Of masks `scored_classes` are the places of those that are scored (None: all). `draws` (N,) below
    say how often each row is drawn: 0 leaves it out.
    """

    task: Task
    metric: Metric
    classes: int
    y: Array
    folds: Array
    group: Array | None
    weight: Array | None = None
    blocks: Array | None = None
    scored_classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, table: Table, task: Task, metric: Metric, rows: Array | None = None) -> Problem:
        """Return the problem of some rows of a table, of the scored ones unless told otherwise."""
        rows, classes = table.scored if rows is None else rows, len(table.classes)
        weight = table.weights[rows] if (table.weights[rows] != 1).any() else None
        blocks = table.groups[rows] if metric.grouped else None
        y = task.targets(table.y[rows])
        units = table.units[rows]
        group = units if len(np.unique(units)) < len(units) else None
        return cls(task, metric, classes, y, table.folds[rows], group, weight, blocks, table.scored_classes)

    @property
    def mask_metric(self) -> MaskMetric:
        """Return the metric as masks are measured by it: what is scored of them is decided here alone."""
        return resolve(MASK_METRICS, self.metric.name, "metric of masks").of(self.scored_classes)

    @property
    def plain(self) -> bool:
        """Say whether every row counts alike and its target is hard and known."""
        odd = self.weight is not None or self.blocks is not None or self.metric.shares is not None
        return not (odd or self.soft or (self.y.dtype.kind == "f" and bool(np.isnan(self.y).any())))

    @property
    def soft(self) -> bool:
        """Say whether targets are probabilities."""
        y = self.y
        if not self.task.probabilities or y.dtype.kind != "f" or self.task.name == "segmentation":
            return False
        return self.task.name == "multiclass" or bool(((y > 0) & (y < 1)).any())

    @property
    def hard(self) -> Array:
        """Return the targets as labels, soft ones by what is likeliest."""
        return self.task.harden(self.y)

    @property
    def ideal(self) -> Array:
        """Return the prediction (N P) that says what the targets are."""
        if self.task.name == "multiclass" and self.y.ndim == 1:
            return np.eye(self.classes)[self.y]
        return self.y.reshape(len(self.y), -1).astype(np.float64)

    @property
    def cuts(self) -> Array:
        """Return the untuned cuts."""
        return self.task.default_cuts(self.classes)

    def part(self, rows: Array) -> Problem:
        """Return the problem of some rows (a mask or positions)."""
        group, weight, blocks = (None if v is None else v[rows] for v in (self.group, self.weight, self.blocks))
        return replace(self, y=self.y[rows], folds=self.folds[rows], group=group, weight=weight, blocks=blocks)

    def alone(self) -> dict[str, Problem]:
        """Return the problem of each of several targets by name, {} where there is one."""
        if not (isinstance(self.task, Several) and isinstance(self.metric, Together)):
            return {}
        pairs = zip(self.task.pieces, self.metric.parts, strict=True)
        return {p.name: replace(self, task=p.task, metric=m, classes=p.classes, y=p.of(self.y)) for p, m in pairs}

    def score(self, prediction: Array, cuts: Array | None = None, draws: Array | None = None) -> float:
        """Score predictions (N P); label metrics decide by `cuts` first, by the untuned ones if there are none."""
        return self.judge(self.metric.wanted(self.task, prediction, self.cuts if cuts is None else cuts), draws)

    def judge(self, guess: Array, draws: Array | None = None) -> float:
        """Score what the metric wants: labels, or probabilities or values (see `Metric.wanted`)."""
        draws = np.ones(len(self.y)) if draws is None else draws
        weight = draws if self.weight is None or self.metric.draws else draws * self.weight
        if not weight.any():
            return float("nan")
        if self.blocks is None:
            return self.metric.score(self.task, self.y, guess, weight)
        return self._by_block(guess, draws, weight)

    def _by_block(self, guess: Array, draws: Array, weight: Array) -> float:
        """Return the mean over groups of the metric inside each: one drawn twice counts twice."""
        scores, times = [], []
        for rows in self.block_rows():
            if weight[rows].any():
                scores.append(self.metric.score(self.task, self.y[rows], guess[rows], weight[rows]))
                times.append(draws[rows].max())
        there = np.isfinite(scores)
        found, mass = np.array(scores)[there], np.array(times)[there]
        return float(np.average(found, weights=mass)) if len(found) else float("nan")

    def block_rows(self) -> list[Array]:
        """Return the positions of the rows of each group of a grouped metric."""
        assert self.blocks is not None
        index = np.unique(self.blocks, return_inverse=True)[1]
        order = np.argsort(index, kind="stable")
        return np.split(order, np.cumsum(np.bincount(index))[:-1])
