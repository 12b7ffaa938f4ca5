"""What a row brings to a metric where rows weigh differently, or targets are soft or partly unknown.

T + n w (slope of T in the row's weight w): the infinitesimal jackknife, whose mean over rows is T and whose spread is
that of T. Where a slope has no formula, or is of counted rows only, rows are left out one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.scoring.classification import known_labels
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# More distinct pairs of labels (or rows that are left out) than this are not scored one by one; a metric file takes
# milliseconds a call.
MOST, MOST_OF_FILE = 4000, 500
STEP = 1e-4


def row_score(problem: Problem) -> Callable[[Array, Array], Array] | None:
    """Return the metric of single rows (y, guess) -> (N,), None where it is no mean over rows."""
    metric, labels = problem.metric, problem.y.ndim == 1
    if problem.task.name == "multiclass" and not labels:
        return metric.soft
    if metric.built_in and metric.name.endswith("_micro") and labels:
        return lambda y, p: np.asarray(y == p)
    return metric.rows


def influence(problem: Problem, guess: Array, base: Array) -> Array | None:
    """Return the contribution (N,) of each row, relabelled from `base` to `guess` by itself; None: too many rows.

    It is in units of the metric (rmse: squared error), and NaN where the metric is.
    """
    if problem.metric.draws:
        return one_by_one(problem, guess)
    if problem.blocks is not None:
        return _by_block(problem, guess, base)
    soft_classes = problem.task.name == "multiclass" and problem.y.ndim == 2
    by_column = problem.metric.unknown == "columns" or (problem.metric.name == "rmse" and problem.metric.built_in)
    if problem.y.ndim == 2 and by_column and not soft_classes:
        return _by_column(problem, guess, base)
    return _whole(problem, guess, base, np.ones(len(guess)) if problem.weight is None else problem.weight)


def one_by_one(problem: Problem, guess: Array) -> Array | None:
    """Return pseudo-values n T - (n - 1) T(-i), None where there are too many rows to leave out one by one."""
    n = len(guess)
    if n > (MOST_OF_FILE if problem.metric.draws else MOST) or n < 2:
        return None
    total = problem.judge(guess)
    rest = np.array([problem.judge(guess, 1.0 - (np.arange(n) == i)) for i in range(n)])
    return np.where(np.isfinite(rest), n * total - (n - 1) * rest, total)


def _by_block(problem: Problem, guess: Array, base: Array) -> Array | None:
    """Return contributions to the mean over groups: each group's rows bring what the group brings."""
    n, blocks, found = len(guess), problem.block_rows(), {}
    for b, rows in enumerate(blocks):
        part = replace(problem.part(rows), blocks=None)
        mine = influence(part, guess[rows], base[rows])
        if mine is None:
            return None
        found[b] = mine
    totals = np.array([v.mean() for v in found.values()])
    there = np.isfinite(totals)
    total = float(totals[there].mean()) if there.any() else float("nan")
    out = np.full(n, total)
    for b in np.flatnonzero(there).tolist():
        out[blocks[b]] += n / (there.sum() * len(blocks[b])) * (found[b] - total)
    return out


def _by_column(problem: Problem, guess: Array, base: Array) -> Array | None:
    """Return contributions to a mean over columns, in each of which rows that are unknown weigh nothing."""
    weight = np.ones(len(guess)) if problem.weight is None else problem.weight
    metric, shares = replace(problem.metric, shares=None), np.array(problem.metric.shares or [1.0] * problem.y.shape[1])
    # Labels are whole numbers again where they are known, unless they are soft.
    labels = np.int64 if problem.task.name == "multilabel" and not problem.soft else None
    total, mass = np.zeros(len(guess)), 0.0
    for c, share in enumerate(shares):
        known = ~np.isnan(problem.y[:, c])
        y = np.where(known, problem.y[:, c], 0)[:, None]
        column = replace(problem, metric=metric, y=y if labels is None else y.astype(labels), weight=None)
        if not (weight * known).any():
            continue
        mine = _whole(column, guess[:, [c]], base[:, [c]], weight * known)
        if mine is None:
            return None
        if np.isfinite(mine).all():
            total, mass = total + share * mine, mass + share
    return np.asarray(total / mass) if mass else np.full(len(guess), np.nan)


def _whole(problem: Problem, guess: Array, base: Array, weight: Array) -> Array | None:
    """Return the contributions of rows with weights to a metric that is of all rows together."""
    metric, rows, n = problem.metric, row_score(problem), len(guess)
    known = known_labels(problem.y)
    weight = weight if known is None else weight * known.any(1)
    if rows is not None and metric.name != "r2":
        values = rows(problem.y, guess).astype(np.float64)
        mean = float(np.average(rows(problem.y, base), weights=weight))
        return np.asarray(mean + n * weight / weight.sum() * (values - mean))
    if metric.name in ("mcrmse", "r2") and metric.built_in:
        return _of_squares(problem, guess, weight)
    if metric.label:
        return _of_pairs(problem, guess, base, weight)
    if metric.name in ("roc_auc", "average_precision") and metric.built_in:
        return _of_ranks(problem, guess, weight)
    return one_by_one(replace(problem, weight=weight), guess)


def _of_squares(problem: Problem, guess: Array, weight: Array) -> Array:
    """Return contributions to the root of a mean squared error or to R2, mean over targets."""
    n, share = len(guess), weight / weight.sum()
    y, p = (v.astype(np.float64).reshape(n, -1) for v in (problem.y, guess))
    error, away = (y - p) ** 2, (y - share @ y) ** 2
    mean, spread = share @ error, share @ away
    ratio = mean / np.maximum(spread, np.finfo(float).tiny)
    if problem.metric.name == "r2":
        slope = -(error - ratio * away) / np.maximum(spread, np.finfo(float).tiny)
        return np.asarray((1 - ratio + n * share[:, None] * slope).mean(1))
    root = np.sqrt(mean)
    return np.asarray((root + n * share[:, None] * (error - mean) / np.maximum(2 * root, 1e-12)).mean(1))


def _of_pairs(problem: Problem, guess: Array, base: Array, weight: Array) -> Array | None:
    """Return contributions to a metric of labels, from its slope in the mass of each pair of label and guess."""
    y, n = problem.y, len(guess)
    width = y.reshape(n, -1).shape[1]
    pairs = np.concatenate([np.column_stack([y, base]), np.column_stack([y, guess])])
    kinds, index = np.unique(pairs, axis=0, return_inverse=True)
    index = index.reshape(2, n)
    if len(kinds) > MOST:
        return None
    label, said = (part if y.ndim == 2 else part[:, 0] for part in (kinds[:, :width], kinds[:, width:]))
    mass, function = np.bincount(index[0], weight, len(kinds)), problem.metric.function
    total, step, slope = function(label, said, mass), STEP * weight.sum() / n, np.zeros(len(kinds))
    for j in np.unique(index[1]):
        up, down = mass.copy(), mass.copy()
        up[j] += step
        # Where nothing can be taken away the slope is that of adding.
        down[j] = max(down[j] - step, 0.0)
        slope[j] = (function(label, said, up) - function(label, said, down)) / (up[j] - down[j])
    return np.asarray(total + n * weight * np.nan_to_num(slope)[index[1]])


def _of_ranks(problem: Problem, guess: Array, weight: Array) -> Array:
    """Return contributions to AUC or average precision, macro over classes or labels that have a score."""
    y, p, n = problem.y, guess.reshape(len(guess), -1), len(guess)
    truth = y.reshape(n, -1) if y.ndim == 2 or guess.ndim == 1 else y[:, None] == np.arange(p.shape[1])
    slope_of = _auc_slope if problem.metric.name == "roc_auc" else _precision_slope
    found = [slope_of(truth[:, c] == 1, p[:, c], weight) for c in range(p.shape[1])]
    kept = [total + n * weight * slope for total, slope in found if np.isfinite(total)]
    return np.asarray(np.mean(kept, 0)) if kept else np.full(n, np.nan)


def _steps(y: Array, p: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the place (N,) of each row's score, from the highest down, and the mass of both sides at each place."""
    step = np.unique(-p, return_inverse=True)[1]
    last = int(step.max()) + 1
    return step, np.bincount(step, weight * y, last), np.bincount(step, weight * ~y, last)


def _auc_slope(y: Array, p: Array, weight: Array) -> tuple[float, Array]:
    """Return the AUC of one label and its slope in each row's weight: what it wins, less its share of all pairs."""
    step, positive, negative = _steps(y, p, weight)
    ones, others = positive.sum(), negative.sum()
    if ones <= 0 or others <= 0:
        return float("nan"), np.zeros(len(y))
    below = others - np.cumsum(negative) + negative / 2
    above = np.cumsum(positive) - positive / 2
    area = float(positive @ below / ones / others)
    won = np.where(y, below[step] / others, above[step] / ones)
    return area, np.asarray((won - area) / np.where(y, ones, others))


def _precision_slope(y: Array, p: Array, weight: Array) -> tuple[float, Array]:
    """Return the average precision of one label and its slope in each row's weight.

    AP is the sum over steps of d TP / N over all positives, with the mass d of the step's positives, TP and N of those
    and of all down to it. A row adds to N from its step on, a positive one to d of its step and to TP from there on.
    """
    step, positive, negative = _steps(y, p, weight)
    ones = positive.sum()
    if ones <= 0:
        return float("nan"), np.zeros(len(y))
    true, rows = np.cumsum(positive), np.maximum(np.cumsum(positive + negative), np.finfo(float).tiny)
    total = float((positive * true / rows).sum() / ones)
    as_true, as_row = (np.cumsum(part[::-1])[::-1] for part in (positive / rows, positive * true / rows**2))
    slope = np.where(y, (true / rows + as_true)[step] - total, 0.0) - as_row[step]
    return total, np.asarray(slope / ones)
