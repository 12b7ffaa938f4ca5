"""Thresholds and ordinal cut points: exact where the metric allows it, cross-fitted always.

Methods: `fixed` (one half between neighbours), `ratio` (as many rows above a cut as labels are), `optimal` (the best
cut on the rows it is fitted on; `ratio` for a label with fewer than 50 positives, where the optimum is mostly noise),
and `auto`, which chooses among them inside the cross-fitting and keeps `fixed` unless the gate is passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.scoring.bootstrap import adopt
from pipeline.scoring.classification import f_score
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array
from pipeline.tasks import Several, Task

RARE = 50


@dataclass(frozen=True)
class Decision:
    """Cross-fitted decisions: labels of the OOF rows, cuts of each fold, deployed cuts and how they were chosen.

    Of several targets `labels` (N G) holds beside the labels of some what the metrics of the others want.
    """

    labels: Array
    by_fold: dict[int, Array]
    methods: dict[int, str]
    cuts: Array
    method: str


def match_shares(above: float, p: Array, weight: Array | None = None) -> float:
    """Return the cut on `p` (N,) that leaves a share of the rows nearest to `above` over it; ties stay together."""
    order = np.argsort(p, kind="stable")
    values = p[order].astype(np.float64)
    mass = np.r_[0.0, np.cumsum(np.ones(len(p)) if weight is None else weight[order])]
    borders = np.r_[0, np.flatnonzero(np.diff(p[order])) + 1, len(p)]
    place = int(borders[np.argmin(np.abs(mass[-1] - mass[borders] - above * mass[-1]))])
    padded = np.r_[values[0] - 1, values, values[-1] + 1]
    return float(_between(padded[place], padded[place + 1]))


def ratio_cuts(problem: Problem, p: Array) -> Array:
    """Return cuts on predictions (N P) with as many rows above them as the targets have."""
    y = problem.y
    if problem.task.name == "ordinal":
        shares = [_share(y > c, problem.weight) for c in range(problem.classes - 1)]
        return np.array([match_shares(share, p[:, 0], problem.weight) for share in shares])
    return np.array([match_shares(_share(y, w), p, w) for y, p, w in _labels(problem, p)])


def optimal_cuts(problem: Problem, p: Array) -> Array:
    """Return the cuts on predictions (N P) that are best for the metric."""
    metric = problem.metric
    ratio = ratio_cuts(problem, p)
    if problem.task.name == "ordinal":
        starts = (problem.cuts, ratio)
        if metric.name == "quadratic_kappa" and metric.built_in and problem.blocks is None:
            return kappa_cuts(problem.y, p[:, 0], starts, problem.weight)
        return _coordinate_search(problem, p, starts)
    if _counts(metric, problem.task) is not None and problem.blocks is None:
        labels = _labels(problem, p)
        exact = np.array([best_threshold(metric, problem.task, *label) for label in labels])
        return np.where([y.sum() < RARE for y, _, _ in labels], ratio, exact)
    # Metrics that mix labels (micro, samples, whole rows) and the user's own: one threshold, over pooled quantiles.
    grid = np.unique(np.r_[0.5, np.quantile(p, np.linspace(0.005, 0.995, 199))])
    gains = [metric.gain(problem.score(p, np.full(p.shape[1], cut)), 0.0) for cut in grid]
    if not np.isfinite(gains).any():
        return problem.cuts
    return np.full(p.shape[1], grid[int(np.nanargmax(gains))])


def best_threshold(metric: Metric, task: Task, y: Array, p: Array, weight: Array | None = None) -> float:
    """Return the exact best threshold of one label (y and p are N) by sorting."""
    order = np.argsort(-p, kind="stable")
    weight = np.ones(len(y)) if weight is None else weight[order]
    p, y = p[order].astype(np.float64), y[order]
    hit, predicted = np.r_[0.0, np.cumsum(weight * y)], np.r_[0.0, np.cumsum(weight)]
    possible = np.r_[True, p[1:] != p[:-1], True]
    from_counts = _counts(metric, task)
    assert from_counts is not None, f"{metric.name} is not a function of the counts of one label"
    values = from_counts(hit, predicted, float(hit[-1]), float(predicted[-1]))
    cut = int(np.argmax(np.where(possible, values, -np.inf)))
    padded = np.r_[p[0] + 1, p, p[-1] - 1]
    return float(_between(padded[cut + 1], padded[cut]))


Counts = Callable[[Array, Array, float, float], Array]


def _counts(metric: Metric, task: Task) -> Counts | None:
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

    With prefix sums of the sorted rows the kappa of every position of one cut costs one vector operation, so each move
    is to the exact optimum given the other cuts.
    """
    order = np.argsort(p, kind="stable")
    p, y = p[order].astype(np.float64), y[order].astype(np.float64)
    weight = np.ones(len(y)) if weight is None else weight[order]
    mass, total, squares = weight.sum(), weight @ y, weight @ y**2
    prefix, rows = np.r_[0.0, np.cumsum(weight * y)], np.r_[0.0, np.cumsum(weight)]
    possible = np.r_[True, p[1:] != p[:-1], True]

    def kappa(grade: Array, grade2: Array, product: Array) -> Array:
        expected = squares + grade2 - 2 * total * grade / mass
        observed = squares - 2 * product + grade2
        return np.asarray(1 - np.divide(observed, expected, out=np.ones_like(expected), where=expected > 1e-12))

    best_score, best = -np.inf, np.asarray(starts[0])
    for start in starts:
        # A cut as a position: rows from that position on lie above it.
        position = np.searchsorted(p, start, side="right")
        score = -np.inf
        while True:
            for j in range(len(start)):
                low = position[j - 1] if j else 0
                high = position[j + 1] if j + 1 < len(start) else len(y)
                at = np.arange(low, high + 1)
                at = at[possible[at]]
                bounds = np.r_[0, np.delete(position, j), len(y)]
                rest = np.repeat(np.arange(len(start)), np.diff(bounds))  # grades with cut j taken out
                above, sums = rows[high] - rows[at], prefix[high] - prefix[at]
                # Rows over cut j get one more than `rest`, up to the next cut and beyond it.
                beyond, beyond_sum = mass - rows[high], prefix[-1] - prefix[high]
                grade = weight @ rest + above + beyond
                grade2 = weight @ rest**2 + (2 * j + 1) * above + weight[high:] @ (2 * rest[high:] + 1)
                product = (weight * rest) @ y + sums + beyond_sum
                values = kappa(grade, grade2, product)
                position[j] = at[int(np.argmax(values))]
                newest = float(values.max())
            if newest <= score + 1e-12:
                break
            score = newest
        if score > best_score:
            edges = np.r_[p[0] - 1, p, p[-1] + 1]
            best_score, best = score, _between(edges[position], edges[position + 1])
    return best


def fit(problem: Problem, method: str, rows: Array, view: Array) -> tuple[Array, str]:
    """Fit cuts on the rows of a mask; return them and the method that `auto` settled on."""
    if method == "fixed":
        return problem.cuts, method
    if isinstance(problem.task, Several):
        return _fit_each(problem, problem.task, method, rows, view)
    if method == "ratio":
        return ratio_cuts(problem.part(rows), view[rows]), method
    if method == "optimal":
        return optimal_cuts(problem.part(rows), view[rows]), method
    return fit(problem, _choose(problem, rows, view), rows, view)


def _fit_each(problem: Problem, task: Several, method: str, rows: Array, view: Array) -> tuple[Array, str]:
    """Fit the cuts of each of several targets by its own metric, where that is one of labels."""
    cuts, methods = problem.cuts, []
    for piece, alone in zip(task.pieces, problem.alone().values(), strict=True):
        if piece.task.cuts and alone.metric.label:
            cuts[piece.cuts], chosen = fit(alone, method, rows, view[:, piece.p])
            methods.append(chosen)
    return cuts, ", ".join(methods) if set(methods) - {"fixed"} else "fixed"


def crossfit(problem: Problem, method: str, view: Callable[[int | None], Array]) -> Decision:
    """Decide each fold with cuts fitted on the other folds, and fit the deployed cuts on all rows.

    `view(k)` returns all OOF predictions (N P) as fold k may see them (for a blend: under the weights fitted without
    fold k); `view(None)` those of the deployed run.
    """
    everything = np.ones(len(problem.y), bool)
    by_fold, methods = {}, {}
    for k in np.unique(problem.folds).tolist():
        by_fold[k], methods[k] = fit(problem, method, problem.folds != k, view(k))
    labels = decide(problem, by_fold, view)
    cuts, chosen = fit(problem, method, everything, view(None))
    return Decision(labels, by_fold, methods, cuts, chosen)


def decide(problem: Problem, by_fold: dict[int, Array], view: Callable[[int], Array]) -> Array:
    """Return what the metric wants of the rows of each fold, decided by the cuts of that fold."""
    said = {k: problem.metric.wanted(problem.task, view(k)[problem.folds == k], cuts) for k, cuts in by_fold.items()}
    first = next(iter(said.values()))
    guess = np.zeros((len(problem.y), *first.shape[1:]), first.dtype)
    for k, mine in said.items():
        guess[problem.folds == k] = mine
    return guess


def match_ensemble(task: Task, cuts: Array, models: list[Array], mean: Array) -> Array:
    """Move cuts fitted for one model to the mean of several (label-free quantile matching).

    The mean of K models is narrower than one model, so the same cut would leave too few rows beyond it: the moved cut
    leaves the share of rows that the models, each at its own cut, leave on average.
    """
    if not len(cuts):
        return cuts
    columns = task.cut_columns(len(cuts))
    shares = [np.mean([(m[:, c] > cut).mean() for m in models]) for c, cut in zip(columns, cuts, strict=True)]
    return np.array([match_shares(float(share), mean[:, c]) for c, share in zip(columns, shares, strict=True)])


def _between(low: Array, high: Array) -> Array:
    """Return the cut halfway, or `low` where rounding would put the cut on `high`, which must stay over it."""
    middle = (low + high) / 2
    return np.where(middle < high, middle, low)


def _choose(problem: Problem, rows: Array, view: Array) -> str:
    """Choose a method by cross-fitted gain over `fixed` inside `rows`, through the gate."""
    inner, part = np.unique(problem.folds[rows]), problem.part(rows)
    if len(inner) < 2:
        return "fixed"
    scorers: dict[str, Callable[[Array], float]] = {}
    for method in ("fixed", "optimal", "ratio"):
        labels = np.zeros(problem.y.shape, np.int64)
        for k in inner:
            mine = rows & (problem.folds == k)
            cuts, _ = fit(problem, method, rows & ~mine, view)
            labels[mine] = problem.task.decide(view[mine], cuts)
        scorers[method] = partial(part.judge, labels[rows])
    return adopt(scorers, problem.metric.gain, len(part.y), part.group)


def _coordinate_search(problem: Problem, p: Array, starts: tuple[Array, ...]) -> Array:
    """Move one cut at a time over 99 quantiles until no move improves the metric."""
    grid = np.unique(np.quantile(p[:, 0].astype(np.float64), np.linspace(0.005, 0.995, 99)))

    def gain(cuts: Array) -> float:
        return float(np.nan_to_num(problem.metric.gain(problem.score(p, cuts), 0.0), nan=-np.inf))

    best = max(starts, key=gain)
    while True:
        old = gain(best)
        for j in range(len(best)):
            moved = [np.sort(np.r_[np.delete(best, j), value]) for value in grid]
            best = max([best, *moved], key=gain)
        if gain(best) <= old:
            return best


def _labels(problem: Problem, p: Array) -> list[tuple[Array, Array, Array | None]]:
    """Return target, prediction and weight of each label (N each) on the rows where it is known."""
    y, found = problem.y.reshape(len(p), -1), []
    for c in range(y.shape[1]):
        known = ~np.isnan(y[:, c]) if y.dtype.kind == "f" else np.ones(len(y), bool)
        found.append((y[known, c], p[known, c], None if problem.weight is None else problem.weight[known]))
    return found


def _share(above: Array, weight: Array | None) -> float:
    return float(np.average(above, weights=weight))
