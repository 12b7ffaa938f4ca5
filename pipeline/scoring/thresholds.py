"""Exact thresholds and ordinal cut points of one column of predictions, by sorting it once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.classification import f_score
from pipeline.scoring.metrics import Metric
from pipeline.store.files import Array
from pipeline.tasks import Task

Counts = Callable[[Array, Array, float, float], Array]


@dataclass(frozen=True)
class Column:
    """A column of predictions, sorted: its D different values, and what lies from each on, and behind the last (D+1).

    `above` is the weight of the rows that are not below, `sums` that of their targets. Ties stay together.
    """

    values: Array
    above: Array
    sums: Array

    @classmethod
    def of(cls, p: Array, y: Array | None = None, weight: Array | None = None) -> Column:
        """Sort predictions (N,) with targets (N,) and weights (N,), where there are any."""
        order = None if y is None and weight is None else np.argsort(p)
        p = np.sort(p) if order is None else p[order]
        borders = np.concatenate([[0], np.flatnonzero(p[1:] != p[:-1]) + 1, [len(p)]])
        if weight is not None:
            weight = weight[order]
        above = (len(p) - borders).astype(np.float64) if weight is None else _from(weight, borders)
        if y is not None:
            y = y[order] if weight is None else y[order] * weight
        return cls(p[borders[:-1]].astype(np.float64), above, above if y is None else _from(y, borders))

    def cuts(self, place: Array | int) -> Array:
        """Return the cuts that lie below the values from `place` on, halfway to the value before."""
        padded = np.concatenate([self.values[:1] - 1, self.values, self.values[-1:] + 1])
        low, high = padded[place], padded[np.add(place, 1)]
        middle = (low + high) / 2
        # Rounding could put the cut on `high`, which must stay over it.
        return np.where(middle < high, middle, low)


def match_shares(above: Sequence[float], p: Array, weight: Array | None = None) -> Array:
    """Return the cuts on `p` (N,) that leave shares of the rows nearest to `above` over them; ties stay together."""
    column = Column.of(p, weight=weight)
    wanted = np.asarray(above) * column.above[0]
    return column.cuts(np.array([np.argmin(np.abs(column.above - rows)) for rows in wanted], np.int64))


def best_threshold(metric: Metric, task: Task, y: Array, p: Array, weight: Array | None = None) -> float:
    """Return the exact best threshold of one label (y and p are N) by sorting, the highest of equal ones."""
    from_counts = counts_of(metric, task)
    assert from_counts is not None, f"{metric.name} is not a function of the counts of one label"
    column = Column.of(p, y, weight)
    hit, predicted = column.sums[::-1], column.above[::-1]
    best = int(np.argmax(from_counts(hit, predicted, float(hit[-1]), float(predicted[-1]))))
    return float(column.cuts(len(hit) - 1 - best))


def counts_of(metric: Metric, task: Task) -> Counts | None:
    """Return the metric of one label as a function of (hits, predicted, actual, rows), None where it is none."""

    def right(hit: Array, predicted: Array, actual: float, n: float) -> Array:
        return np.asarray((n - actual - predicted + 2 * hit) / n)

    def recalls(hit: Array, predicted: Array, actual: float, n: float) -> Array:
        return hit / (actual or 1.0) + (n - actual - predicted + hit) / ((n - actual) or 1.0)

    def f_positive(hit: Array, predicted: Array, actual: float, n: float) -> Array:
        return f_score(hit, predicted, np.full(len(hit), actual), beta)

    def f_both(hit: Array, predicted: Array, actual: float, n: float) -> Array:
        rest = f_score(n - actual - predicted + hit, n - predicted, np.full(len(hit), n - actual), beta)
        return f_positive(hit, predicted, actual, n) + rest

    name, _, average = metric.name.partition("_")
    if not metric.built_in:
        return None
    if task.name == "binary" and metric.name == "balanced_accuracy":
        return recalls
    if task.name == "binary" and (metric.name == "accuracy" or average == "micro"):
        return right
    if not name.startswith("f") or average not in ("", "macro"):
        return None
    beta = float(name[1:])
    return f_both if task.name == "binary" and average == "macro" else f_positive


def kappa_cuts(y: Array, p: Array, starts: tuple[Array, ...], weight: Array | None = None) -> Array:
    """Return cuts that no move of a single cut improves (quadratic kappa), the best over the starts.

    A grade is the number of cuts below a row, its square the sum of 1, 3, 5 ... over these. So the kappa of every place
    of one cut is one vector operation on sums over sorted rows, and each move is to the exact optimum given the others.
    """
    column = Column.of(p, y, weight)
    squares = float((y**2).sum() if weight is None else weight @ y**2)
    best_score, best = -np.inf, np.asarray(starts[0])
    for start in starts:
        place, score = np.searchsorted(column.values, start, side="right"), -np.inf
        while True:
            for j in range(len(start)):
                place[j], newest = _best_place(column, squares, place, j)
            if newest <= score + 1e-12:
                break
            score = newest
        if score > best_score:
            best_score, best = score, column.cuts(place)
    return best


def _best_place(column: Column, squares: float, place: Array, j: int) -> tuple[int, float]:
    """Return the best place of cut `j` between its neighbours, and the kappa there; `squares` is the sum of y^2."""
    above, sums = column.above, column.sums
    rest, odd = np.delete(place, j), 2 * np.delete(np.arange(len(place)), j) + 1
    low = place[j - 1] if j else 0
    here = slice(low, (place[j + 1] if j + 1 < len(place) else len(column.values)) + 1)
    chance = 2 * sums[0] / above[0]
    # The sums over rows of (y - grade)^2, and of the same where the two have nothing to do with each other.
    observed = above[here] * (2 * j + 1) - 2 * sums[here] + (squares + odd @ above[rest] - 2 * sums[rest].sum())
    expected = above[here] * (2 * j + 1 - chance) + (squares + odd @ above[rest] - chance * above[rest].sum())
    ratio = np.divide(observed, expected, out=np.ones(len(observed)), where=expected > 1e-12)
    best = int(np.argmin(ratio))
    return low + best, 1 - float(ratio[best])


def _from(values: Array, borders: Array) -> Array:
    """Return the sums of the values from each border on."""
    below = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray(below[-1] - below[borders])
