"""Fast tries of greedy selection: what a metric needs of a mean of members, and no more.

Log loss needs the probability of the true class; labels need only the rows whose label the members can still change;
the area under the ROC curve needs one sort of numbers that carry their label in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import numpy as np

from pipeline.scoring.classification import EPS
from pipeline.scoring.convex import true_probability
from pipeline.scoring.greedy import Tries
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# Scores are sums in another order than those of the definition: their last three or four digits are not the same.
ERROR = 1e-10


def quick(problem: Problem, members: Sequence[Array]) -> Callable[[Array], Tries | None]:
    """Return what gives fast tries under a row weighting, or None where only the definition of the metric will do.

    `members` (N P each) are blended as they are; targets must be hard and known.
    """
    metric, task = problem.metric, problem.task.name
    if problem.y.dtype.kind not in "iu" or problem.blocks is not None or not metric.built_in or metric.shares:
        return lambda draws: None
    make: Callable[[Array], Tries | None]
    if metric.name == "log_loss":
        make = _log_loss(problem, members)
    elif metric.name == "roc_auc" and all(np.isfinite(p).all() and p.min() >= 0 for p in members):
        truth = problem.y if problem.y.ndim == 2 else problem.y[:, None] == np.arange(problem.classes)
        make = partial(_ranks, truth[:, 1:] if task == "binary" else truth, members)
    elif metric.label and (task != "multilabel" or metric.name.endswith(("_macro", "_micro"))):
        make = partial(Labels, problem, members)
    else:
        return lambda draws: None
    return lambda draws: make(draws if problem.weight is None else draws * problem.weight)


class LogLoss:
    """Tries of log loss by what members give to events (M E), which `happened` (E,) or not, with a weight (E,) each.

    `excess` (M,): by how much the probabilities of a row sum to more than 1, on average: very little.
    """

    error = ERROR

    def __init__(self, p: Array, happened: Array, excess: Array, weight: Array) -> None:
        yes, no = (np.flatnonzero(part & (weight > 0)) for part in (happened, ~happened))
        rows = np.concatenate([yes, no])
        self.p, self.yes, self.share, self.excess = p.take(rows, 1), len(yes), weight[rows] / weight.sum(), excess
        self.running, self.over = np.zeros(len(rows)), 0.0

    def scores(self, size: int) -> Array:
        """Return minus the log loss (M,) of the running mean with each member in it."""
        found, mean = np.empty(len(self.p)), np.empty(len(self.running))
        yes, no = mean[: self.yes], mean[self.yes :]
        for m, p in enumerate(self.p):
            np.add(self.running, p, out=mean)
            mean /= size
            np.clip(mean, EPS, 1 - EPS, out=mean)
            np.log(yes, out=yes)
            np.log1p(np.negative(no, out=no), out=no)
            found[m] = self.share @ mean
        # A row that sums to 1 + x is divided by that: log(1 + x) is x where x is so small.
        return found - (self.over + self.excess) / size

    def add(self, member: int) -> None:
        """Choose a member."""
        self.running += self.p[member]
        self.over += self.excess[member]


class Labels:
    """Tries of a metric of labels by its table of cells (true label, decided label).

    As the running sum grows, a member changes fewer and fewer labels: that of a row is settled where it is the same
    with the least and with the largest of what the members say. Rounding is monotone, so this is exact.
    """

    error = ERROR

    def __init__(self, problem: Problem, members: Sequence[Array], weight: Array) -> None:
        self.metric, several = problem.metric, problem.task.name == "multiclass"
        self.members = [np.asarray(p if several else p.reshape(-1)) for p in members]
        self.low, self.high = (reduce(f, self.members).astype(np.float64) for f in (np.minimum, np.maximum))
        self.cuts = None if several else np.unique(problem.cuts)
        width = members[0].shape[1] if self.cuts is None else len(self.cuts) + 1
        y = problem.y.reshape(len(problem.y), -1)
        self.code = ((np.arange(y.shape[1]) * width + y) * width).ravel()
        self.weight = weight.repeat(y.shape[1])
        self.cells, self.size = _cells(problem.task.name, y.shape[1], width), y.shape[1] * width**2
        self.running = np.zeros(self.low.shape)

    def scores(self, size: int) -> Array:
        """Return the scores (M,) of the running mean with each member in it, decided by the untuned cuts."""
        label, moving = self._settled(size)
        running, code, weight = self.running[moving], self.code[moving], self.weight[moving]
        settled = self.weight.copy()
        settled[moving] = 0
        table = self._count(self.code + label, settled)
        found = np.empty(len(self.members))
        for m, p in enumerate(self.members):
            decided = self._decide((running + p[moving]) / size)
            found[m] = self._score(table + self._count(code + decided, weight))
        return found

    def add(self, member: int) -> None:
        """Choose a member."""
        self.running += self.members[member]

    def _settled(self, size: int) -> tuple[Array, Array]:
        """Return a label of every entry, and which entries a member may give another one."""
        low, high = (self.running + self.low) / size, (self.running + self.high) / size
        if self.cuts is not None:
            label = self._decide(low)
            return label, np.flatnonzero(label != self._decide(high))
        top, rows = self.running.argmax(1), np.arange(len(low))
        high[rows, top] = -np.inf
        return top, np.flatnonzero(low[rows, top] <= high.max(1))

    def _decide(self, mean: Array) -> Array:
        if self.cuts is None:
            return np.asarray(mean.argmax(1))
        return np.asarray(sum((mean > cut).astype(np.int64) for cut in self.cuts))

    def _count(self, code: Array, weight: Array) -> Array:
        return np.bincount(code, weight, minlength=self.size)

    def _score(self, table: Array) -> float:
        truth, guess, places = self.cells
        value = self.metric.gain(self.metric.function(truth, guess, table[places]), 0.0)
        return float(np.nan_to_num(value, nan=-np.inf))


class Ranks:
    """Tries of the area under the ROC curve, the mean over columns that have both labels.

    `columns`: what members say of the rows (M E) of each such column, each as often as it counts, those that are true
    first, and how many these are. Numbers are not negative, so that their bits sort as they do.
    """

    error = ERROR

    def __init__(self, columns: Sequence[tuple[Array, int]]) -> None:
        self.columns = [(p, true, np.zeros(p.shape[1])) for p, true in columns]

    def scores(self, size: int) -> Array:
        """Return the areas (M,) of the running mean with each member in it."""
        means = [[_area((running + q) / size, true) for q in p] for p, true, running in self.columns]
        return np.asarray(np.mean(means, 0))

    def add(self, member: int) -> None:
        """Choose a member."""
        for p, _, running in self.columns:
            running += p[member]


def _area(mean: Array, true: int) -> float:
    """Return the area under the curve of numbers (E,) of which so many at first are true; the numbers are lost."""
    key = mean.view(np.uint64)
    key <<= 1
    key[:true] |= 1
    key.sort()
    won = float(np.flatnonzero((key & 1).astype(bool)).sum()) - true * (true - 1) / 2
    # Of equal numbers those that are false come first: these pairs were counted as won and are half won.
    if ((key[1:] ^ key[:-1]) == 1).any():
        start = np.flatnonzero(np.r_[True, np.diff(key >> 1) != 0])
        both = np.add.reduceat(key & 1, start).astype(np.int64)
        won -= float(both @ (np.diff(np.r_[start, len(key)]) - both)) / 2
    return won / true / (len(key) - true)


def _ranks(truth: Array, members: Sequence[Array], weight: Array) -> Ranks | None:
    """Return the tries where weights are whole numbers, so that a weight is a repeated row."""
    if (weight % 1 != 0).any() or weight.sum() > 4 * len(weight):
        return None
    rows, columns = np.arange(len(weight)).repeat(weight.astype(np.int64)), []
    for c in range(truth.shape[1]):
        is_true = truth[rows, c].astype(bool)
        if is_true.any() and not is_true.all():
            order = np.concatenate([rows[is_true], rows[~is_true]])
            columns.append((np.array([p[order, c] for p in members], np.float64), int(np.count_nonzero(is_true))))
    return Ranks(columns) if columns else None


def _log_loss(problem: Problem, members: Sequence[Array]) -> Callable[[Array], LogLoss | None]:
    """Return what gives the tries under a row weighting, where the classes of a row sum to 1 but for rounding."""
    p, y = true_probability(problem.task, problem.y, members), problem.y
    if problem.task.name != "multiclass":
        # What did not happen is left as it is said: 1 - p has lost its last digits where p is close to 1.
        p = np.array([q.ravel() for q in members])
        happened, width = y.ravel() == 1, y.size // len(y)
        return lambda weight: LogLoss(p, happened, np.zeros(len(p)), weight.repeat(width))
    over = np.array([q.sum(1, dtype=np.float64) - 1 for q in members])
    if np.abs(over).max() > 1e-6:
        return lambda weight: None
    return lambda weight: LogLoss(p, np.ones(len(y), bool), over @ weight / weight.sum(), weight)


def _cells(task: str, columns: int, width: int) -> tuple[Array, Array, Array]:
    """Return rows that stand for the cells of a table (column, true, decided): their labels and places in it.

    Of several labels a row has one, true or decided or both: their metrics count hits, decided and true ones.
    """
    true, decided = np.divmod(np.arange(width**2), width)
    if task != "multilabel":
        return true, decided, np.arange(width**2)
    cells = np.arange(4 * columns).reshape(columns, 4)[:, 1:]
    one = np.eye(columns, dtype=np.int64)[:, None]
    truth, guess = ((one * v[1:, None]).reshape(-1, columns) for v in (true, decided))
    return truth, guess, cells.ravel()
