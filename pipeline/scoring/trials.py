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
from pipeline.tasks import TASKS

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
        p, happened, total = (_true if task == "multiclass" else _events)(problem.y, members)
        make = partial(LogLoss, p, happened, total)
    elif metric.name == "roc_auc" and all(np.isfinite(p).all() and p.min() >= 0 for p in members):
        truth = problem.y if problem.y.ndim == 2 else problem.y[:, None] == np.arange(problem.classes)
        make = partial(_ranks, truth[:, 1:] if task == "binary" else truth, members)
    elif metric.label and (task != "multilabel" or metric.name.endswith(("_macro", "_micro"))):
        make = partial(Labels, problem, members)
    else:
        return lambda draws: None
    return lambda draws: make(draws if problem.weight is None else draws * problem.weight)


class LogLoss:
    """Tries of log loss by the probabilities (M E) of events: `happened` (E,) or not.

    With `total` (M E) an event is a row's true class, and its probability is to be divided by what the row sums to.
    Of `width` events a row the weight is that of the row.
    """

    error = ERROR

    def __init__(self, p: Array, happened: Array, total: Array | None, weight: Array) -> None:
        weight = weight.repeat(len(happened) // len(weight))
        yes, no = (np.flatnonzero(part & (weight > 0)) for part in (happened, ~happened))
        rows = np.concatenate([yes, no])
        self.yes, self.share = len(yes), weight[rows] / weight[rows].sum()
        self.p, self.total = p[:, rows], None if total is None else total[:, rows]
        self.running, self.sums = np.zeros(len(rows)), np.zeros(len(rows))

    def scores(self, size: int) -> Array:
        """Return minus the log loss (M,) of the running mean with each member in it."""
        found, mean = np.empty(len(self.p)), np.empty(len(self.running))
        for m, p in enumerate(self.p):
            np.add(self.running, p, out=mean)
            mean /= size
            np.clip(mean, EPS, 1 - EPS, out=mean)
            if self.total is not None:
                mean /= (self.sums + self.total[m]) / size
            np.log(mean[: self.yes], out=mean[: self.yes])
            np.log1p(-mean[self.yes :], out=mean[self.yes :])
            found[m] = self.share @ mean
        return found

    def add(self, member: int) -> None:
        """Choose a member."""
        self.running += self.p[member]
        if self.total is not None:
            self.sums += self.total[member]


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

    `orders`: of each such column its place, the rows (each as often as it counts), those that are true first, and how
    many these are. Members are not negative, so that their bits sort as they do.
    """

    error = ERROR

    def __init__(self, members: Sequence[Array], orders: Sequence[tuple[int, Array, int]]) -> None:
        self.members, self.orders = members, orders
        self.running = np.zeros(members[0].shape)

    def scores(self, size: int) -> Array:
        """Return the areas (M,) of the running mean with each member in it."""
        return np.array([np.mean([self._area(p, size, *order) for order in self.orders]) for p in self.members])

    def add(self, member: int) -> None:
        """Choose a member."""
        self.running += self.members[member]

    def _area(self, p: Array, size: int, column: int, order: Array, true: int) -> float:
        mean = self.running[:, column] + p[:, column]
        mean /= size
        key = mean[order].view(np.uint64)
        key <<= 1
        key[:true] |= 1
        key.sort()
        place = np.flatnonzero((key & 1).astype(bool))
        won = float(place.sum()) - true * (true - 1) / 2
        # Of equal numbers those that are false come first: these pairs were counted as won and are half won.
        if ((key[1:] ^ key[:-1]) == 1).any():
            start = np.flatnonzero(np.r_[True, np.diff(key >> 1) != 0])
            both = np.add.reduceat(key & 1, start)
            won -= float(both @ (np.diff(np.r_[start, len(key)]) - both.astype(np.int64))) / 2
        return won / true / (len(key) - true)


def _ranks(truth: Array, members: Sequence[Array], weight: Array) -> Ranks | None:
    """Return the tries where weights are whole numbers, so that a weight is a repeated row."""
    if (weight % 1 != 0).any() or weight.sum() > 4 * len(weight):
        return None
    rows, orders = np.arange(len(weight)).repeat(weight.astype(np.int64)), []
    for c in range(truth.shape[1]):
        is_true = truth[rows, c].astype(bool)
        if is_true.any() and not is_true.all():
            orders.append((c, np.concatenate([rows[is_true], rows[~is_true]]), int(np.count_nonzero(is_true))))
    return Ranks(members, orders) if orders else None


def _true(y: Array, members: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return what members give to the true class (M N), that it happened (N,), and what their rows sum to (M N)."""
    total = np.array([p.sum(1, dtype=np.float64) for p in members])
    return true_probability(TASKS["multiclass"], y, members), np.ones(len(y), bool), total


def _events(y: Array, members: Sequence[Array]) -> tuple[Array, Array, None]:
    """Return what members give to every label of every row (M N*L), and whether it happened (N*L)."""
    return np.array([p.ravel() for p in members], np.float64), y.ravel() == 1, None


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
