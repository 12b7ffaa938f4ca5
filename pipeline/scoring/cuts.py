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
from pipeline.scoring.problem import Problem
from pipeline.scoring.thresholds import best_threshold, counts_of, kappa_cuts, match_shares
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


def ratio_cuts(problem: Problem, p: Array) -> Array:
    """Return cuts on predictions (N P) with as many rows above them as the targets have."""
    y = problem.y
    if problem.task.name == "ordinal":
        shares = [_share(y > c, problem.weight) for c in range(problem.classes - 1)]
        return match_shares(shares, p[:, 0], problem.weight)
    return np.array([_ratio(*label) for label in _labels(problem, p)])


def optimal_cuts(problem: Problem, p: Array) -> Array:
    """Return the cuts on predictions (N P) that are best for the metric."""
    metric = problem.metric
    if problem.task.name == "ordinal":
        starts = (problem.cuts, ratio_cuts(problem, p))
        if metric.name == "quadratic_kappa" and metric.built_in and problem.blocks is None:
            return kappa_cuts(problem.y, p[:, 0], starts, problem.weight)
        return _coordinate_search(problem, p, starts)
    if counts_of(metric, problem.task) is not None and problem.blocks is None:
        exact, labels = partial(best_threshold, metric, problem.task), _labels(problem, p)
        return np.array([(_ratio if label[0].sum() < RARE else exact)(*label) for label in labels])
    # Metrics that mix labels (micro, samples, whole rows) and the user's own: one threshold, over pooled quantiles.
    grid = np.unique(np.r_[0.5, np.quantile(p, np.linspace(0.005, 0.995, 199))])
    gains = [metric.gain(problem.score(p, np.full(p.shape[1], cut)), 0.0) for cut in grid]
    if not np.isfinite(gains).any():
        return problem.cuts
    return np.full(p.shape[1], grid[int(np.nanargmax(gains))])


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
    return np.concatenate([match_shares([float(share)], mean[:, c]) for c, share in zip(columns, shares, strict=True)])


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


def _ratio(y: Array, p: Array, weight: Array | None) -> float:
    """Return the cut of one label that leaves as many rows above it as are true."""
    return float(match_shares([_share(y, weight)], p, weight)[0])


def _share(above: Array, weight: Array | None) -> float:
    return float(np.average(above, weights=weight))
