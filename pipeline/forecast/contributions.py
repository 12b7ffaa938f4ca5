"""What each row brings to a metric, so that it can be predicted row by row.

A metric that is a mean over rows is taken apart directly. Of every other a row has its jackknife pseudo-value
n T - (n - 1) T(-i), whose mean over rows is T to first order. For labels, the row may be given another label than it
has: n T(row i relabelled) - (n - 1) T(-i), everything else as it is, which says what a change of one row is worth.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.forecast.influence import MOST, influence, one_by_one, row_score
from pipeline.scoring.classification import accuracy_rows, f_score
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array


def guess_of(problem: Problem, prediction: Array) -> Array:
    """Return what the metric is given of a prediction (N P) under untuned cuts: labels, or the prediction itself."""
    return problem.metric.wanted(problem.task, prediction, problem.cuts)


def decomposes(problem: Problem) -> bool:
    """Say whether the metric is a mean over rows (rmse: the root of one)."""
    return row_score(problem) is not None and problem.blocks is None


def switchable(problem: Problem) -> bool:
    """Say whether a row may be decided on its own; ranks (AUC, average precision) are only of all rows together."""
    return problem.metric.label or decomposes(problem)


def pooled(problem: Problem, contributions: Array) -> float:
    """Return the metric that contributions add up to: exact where it decomposes, first order elsewhere."""
    mean = float(contributions.mean())
    return float(np.sqrt(max(mean, 0.0))) if problem.metric.name == "rmse" and decomposes(problem) else mean


def contributions(problem: Problem, guess: Array, base: Array | None = None) -> Array:
    """Return the contribution (N,) of each row in units of the metric (rmse: squared error).

    `guess` is what the metric is given (see `guess_of`); where it differs from `base`, labels that all other rows
    keep, each row is relabelled by itself.
    """
    y, metric = problem.y, problem.metric
    base = guess if base is None else base
    if metric.draws:
        problem = replace(problem, weight=None)  # which it does not know
    if not problem.plain:
        found = influence(problem, guess, base)
        return found if found is not None else _right(problem, guess)
    direct = row_score(problem)
    if direct is not None:
        return direct(y, guess).astype(np.float64)
    if metric.label:
        found = _of_labels(problem, y, base, guess)
    elif metric.built_in and metric.name in ("roc_auc", "average_precision"):
        found = _of_ranks(metric.name, y, guess)
    else:
        found = one_by_one(problem, guess)
    return found if found is not None else _right(problem, guess)


def _of_labels(problem: Problem, y: Array, base: Array, guess: Array) -> Array | None:
    """Return pseudo-values of a metric that is a function of the counts of (label, guess) pairs."""
    metric = problem.metric
    known = metric.built_in
    if y.ndim == 1 and known and (metric.name == "balanced_accuracy" or metric.name.endswith("_macro")):
        return _by_class(metric.name, y, base, guess)
    if y.ndim == 2 and known and metric.name.endswith("_macro"):
        columns = [_by_pairs(metric, 2, y[:, [c]], base[:, [c]], guess[:, [c]]) for c in range(y.shape[1])]
        return np.asarray(np.mean([column for column in columns if column is not None], 0))
    if y.ndim == 2 and known and metric.name.endswith("_micro"):
        return _micro(float(metric.name[1:].split("_")[0]), y, base, guess)
    return _by_pairs(metric, problem.classes, y, base, guess)


def _by_class(name: str, y: Array, base: Array, guess: Array) -> Array:
    """Return pseudo-values of a mean over classes, in which a row changes three classes at most."""
    n, classes = len(y), int(max(y.max(), base.max(), guess.max())) + 1
    actual, chosen, hits = (np.bincount(v, minlength=classes) for v in (y, base, y[y == base]))

    def value(hit: Array, predicted: Array, is_there: Array) -> tuple[Array, Array]:
        """Return the score of classes and whether they count."""
        if name == "balanced_accuracy":
            return hit / np.maximum(is_there, 1), is_there > 0
        return f_score(hit, predicted, is_there, float(name[1:].split("_")[0])), is_there + predicted > 0

    scores, seen = value(hits, chosen, actual)
    total, count = float(scores[seen].sum()), int(seen.sum())

    def mean_without(new: Array | None) -> Array:
        """Return T without each row (None), or with it relabelled."""
        totals, counts = np.full(n, total), np.full(n, float(count))
        touched = [y, base] if new is None else [base, new]
        for j, c in enumerate(touched):
            added = 0 if new is None else (new == c).astype(np.int64)
            gone = (base == c).astype(np.int64)
            is_there = actual[c] - (y == c) if new is None else actual[c]
            score, counted = value(hits[c] + (added - gone) * (y == c), chosen[c] + added - gone, is_there)
            once = np.ones(n, bool) if j == 0 else c != touched[0]
            totals += np.where(once, np.where(counted, score, 0) - np.where(seen[c], scores[c], 0), 0)
            counts += np.where(once, counted.astype(int) - seen[c], 0)
        return np.asarray(totals / np.maximum(counts, 1))

    return np.asarray(n * mean_without(guess) - (n - 1) * mean_without(None))


def _micro(beta: float, y: Array, base: Array, guess: Array) -> Array:
    """Return pseudo-values of micro F over labels, a function of three sums."""
    n, there = len(y), y.sum(1)
    hits, chosen = (y & base).sum(1), base.sum(1)
    rest_hits, rest_chosen, actual = hits.sum() - hits, chosen.sum() - chosen, there.sum()
    new = f_score(rest_hits + (y & guess).sum(1), rest_chosen + guess.sum(1), np.full(n, actual), beta)
    return np.asarray(n * new - (n - 1) * f_score(rest_hits, rest_chosen, actual - there, beta))


def _by_pairs(metric: Metric, classes: int, y: Array, base: Array, guess: Array) -> Array | None:
    """Return pseudo-values from the table of distinct (label, guess) pairs, None where they are too many."""
    n, width = len(y), _flat(y).shape[1]
    pairs = np.concatenate([np.column_stack([y, base]), np.column_stack([y, guess])])
    kinds, index = distinct(pairs)
    changes, which = distinct(index.reshape(2, n).T)
    # By what is possible, not by what is there: every guess at the same labels is measured in the same way.
    if min(n, 4**width if y.ndim == 2 else classes**2) > MOST or n < 2:
        return None
    label, said = (part if y.ndim == 2 else part[:, 0] for part in (kinds[:, :width], kinds[:, width:]))
    counts = np.bincount(index[:n], minlength=len(kinds)).astype(np.float64)
    total, values = metric.function(label, said, counts), np.empty(len(changes))
    for c, (old, new) in enumerate(changes):
        counts[old] -= 1
        without = metric.function(label, said, counts)
        counts[new] += 1
        values[c] = n * metric.function(label, said, counts) - (n - 1) * without
        counts[new] -= 1
        counts[old] += 1
    return np.where(np.isfinite(values), values, total)[which]


def distinct(rows: Array) -> tuple[Array, Array]:
    """Return the distinct rows (K W) of labels (N W) in order, and which of them each row is (N,)."""
    low = rows.min(0)
    span = tuple(int(top) - int(bottom) + 1 for top, bottom in zip(rows.max(0), low, strict=True))
    if rows.dtype.kind not in "iu" or math.prod(span) > len(rows):
        kinds, index = np.unique(rows, axis=0, return_inverse=True)
        return kinds, index.ravel()
    # Few are possible: counting them spares sorting the rows.
    codes = np.ravel_multi_index(tuple((rows - low).T), span)
    there = np.bincount(codes) > 0
    kinds = np.column_stack(np.unravel_index(np.flatnonzero(there), span)) + low
    return kinds.astype(rows.dtype), (np.cumsum(there) - 1)[codes]


def _of_ranks(name: str, y: Array, p: Array) -> Array:
    """Return pseudo-values of AUC or average precision, macro over classes or labels."""
    without = _auc_without if name == "roc_auc" else _precision_without
    truth = _flat(y if p.ndim == 1 or y.ndim == 2 else y[:, None] == np.arange(p.shape[1])).astype(bool)
    both = [without(truth[:, c], _flat(p)[:, c]) for c in range(truth.shape[1]) if truth[:, c].any()]
    both = [(total, rest) for total, rest in both if np.isfinite(total)]
    if not both:
        return np.full(len(y), np.nan)
    n, total = len(y), float(np.mean([total for total, _ in both]))
    rest = np.column_stack([rest for _, rest in both])
    kept = np.isfinite(rest)
    # A class whose last row is taken out leaves the mean.
    mean = np.divide(np.where(kept, rest, 0).sum(1), kept.sum(1), out=np.full(n, total), where=kept.any(1))
    return np.asarray(n * total - (n - 1) * mean)


def _auc_without(y: Array, p: Array) -> tuple[float, Array]:
    """Return the AUC of one label, and that without each row (NaN where it has none)."""
    lower, upper = np.sort(p[~y]), np.sort(p[y])
    below = (np.searchsorted(lower, p, "left") + np.searchsorted(lower, p, "right")) / 2
    above = len(upper) - (np.searchsorted(upper, p, "left") + np.searchsorted(upper, p, "right")) / 2
    won = below[y].sum()
    pairs = np.where(y, (len(upper) - 1) * len(lower), len(upper) * (len(lower) - 1)).astype(np.float64)
    rest = np.divide(won - np.where(y, below, above), pairs, out=np.full(len(y), np.nan), where=pairs > 0)
    return float(won / (len(upper) * len(lower))) if len(upper) * len(lower) else float("nan"), rest


def _precision_without(y: Array, p: Array) -> tuple[float, Array]:
    """Return the average precision of one label, and that without each row; ties are one step.

    With d positives in a step, TP above or in it and N rows above or in it, AP is the sum of d TP / N over P. Without a
    row its own step and those below it change: (TP - 1) / (N - 1) for a positive, TP / (N - 1) for a negative.
    """
    step = np.unique(-p, return_inverse=True)[1]
    fresh = np.bincount(step, y).astype(np.float64)
    true, rows, positives = np.cumsum(fresh), np.cumsum(np.bincount(step)).astype(np.float64), float(y.sum())
    less = np.maximum(rows - 1, 1)
    above = np.r_[0, np.cumsum(fresh * true / rows)]

    lost, kept = (np.r_[np.cumsum(terms[::-1])[::-1], 0] for terms in (fresh * (true - 1) / less, fresh * true / less))
    own = (fresh - 1) * (true - 1) / less
    left = positives - y
    sums = above[step] + np.where(y, own[step] + lost[step + 1], kept[step])
    return float(above[-1] / positives), np.divide(sums, left, out=np.full(len(y), np.nan), where=left > 0)


def _right(problem: Problem, guess: Array) -> Array:
    """Return whether each row is right (values: minus the absolute error), with the sign of the metric's direction."""
    y, task = problem.hard, problem.task
    if problem.metric.label:
        right = accuracy_rows(y, guess)
    elif task.probabilities:
        labels = task.decide(guess.reshape(len(y), -1), task.default_cuts(problem.classes))
        right = accuracy_rows(y, labels)
    else:
        right = -np.nanmean(_flat(np.abs(y - guess)), 1)
    return np.asarray(problem.metric.gain(right.astype(np.float64), 0.0))


def _flat(v: Array) -> Array:
    return v.reshape(len(v), -1)
