"""What a submission scores on the test set: one model a row first, then the mean of K models.

One model a row scores what cross-validation says, moved by what a row predictor says of the test rows beyond the scored
ones: its mean over test plus its mean error out of fold (prediction-powered inference, Angelopoulos et al. 2023).

An out-of-fold row is predicted by one model, a test row by the mean of K: a cross-validation score is too low for it.
For squared errors the difference is the variance of the models about their mean, whatever the labels are (Krogh and
Vedelsby 1995). Any other metric is asked what it gives one model a row, and what it gives the mean, on labels drawn
about the mean; how far they scatter is the one thing unknown, and is set so that one model a row scores what is
expected. That is an estimate: it takes the mean to be right but for its sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.forecast.regression import Scale
from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.tasks import Task

# Labels are drawn for so many rows (copies of the test rows, or an even choice among them) while the scatter is
# sought, and for more when the difference is taken: its own noise is then below a thousandth for an accuracy.
SOUGHT, TAKEN = 20_000, 100_000
# Over 60 settings (5 tasks, networks and trees, 150 and 600 rows, 14 metrics) the estimate was off by 14 % of itself in
# the median; by 30 % or less in three quarters, and by more for F-scores of labels that are hardly learned.
ERROR = 0.3


@dataclass(frozen=True)
class Level:
    """What one model a row scores on the test set, with its standard error, in units of the metric.

    `spread` and `known` are the variances of one row's contribution that the predictor does not see and that it does;
    `doubt` is the variance of the level for which the two disagree beyond chance, as they do under a shift.
    """

    score: float
    se: float
    spread: float
    known: float
    doubt: float


@dataclass(frozen=True)
class Match:
    """What is added to the score of one model a row to get that of the mean, its standard error, and if it is exact."""

    gain: float
    se: float
    exact: bool


def row_variance(values: Array, group: Array | None, weight: Array) -> float:
    """Return the variance of a weighted mean over rows that are drawn by group: what a bootstrap tends to."""
    rest = weight * (values - np.average(values, weights=weight))
    sums = rest if group is None else np.bincount(np.unique(group, return_inverse=True)[1], rest)
    return float((sums**2).sum() / weight.sum() ** 2 * len(sums) / max(len(sums) - 1, 1))


def level(
    problem: Problem,
    score: float,
    se: float,
    contributions: Array,
    predicted_oof: Array | None = None,
    predicted_test: Array | None = None,
    weight: Array | None = None,
) -> Level:
    """Return what one model a row scores on the test set.

    `contributions` (N_s,) are those of `scoring.contributions`; the predictions are cross-fitted and of test rows;
    `weight` (N_s,) makes the scored rows look like test (`scoring.shift`). Without predictions and weights this is CV.
    """
    n, units = len(contributions), len(contributions if problem.group is None else np.unique(problem.group))
    told = bool(np.ptp(contributions) > 1e-9)  # neither all the same nor NaN
    g, h = np.zeros(n), np.zeros(1)
    if told and predicted_oof is not None and predicted_test is not None:
        g, h = (_worth(predicted_oof, contributions) * v for v in (predicted_oof, predicted_test))
    even, weight = np.ones(n), np.ones(n) if weight is None else weight
    of_mean = float(np.sqrt(row_variance(contributions, problem.group, even))) if told else 0.0
    se = se if se > 0 else of_mean
    # Contributions of rmse are squares, those of the user's own metric anything: their unit is what gives the same se.
    unit = se / of_mean if told else 0.0
    rest = contributions - g if told else even
    effective = weight.sum() ** 2 / (weight**2).sum()
    variance = unit**2 * row_variance(rest, problem.group, weight) if told else se**2
    # No score is so good that one more row could not be wrong.
    floor = (units + 2.0) ** (-1 if problem.metric.label else -2) if Scale.of(problem.metric).bounded else 0.0
    spread = max(variance * effective, floor)
    # Few units are known to differ by more than they show: the variance of a Student t.
    own = spread / effective * (units - 1) / max(units - 3, 1)
    apart = unit * float(h.mean() - g.mean())
    chance = unit**2 * (float(h.var()) / len(h) + row_variance(g, problem.group, even))
    moved = unit * float(h.mean() + np.average(rest, weights=weight) - contributions.mean()) if told else 0.0
    return Level(score + moved, float(np.sqrt(own)), spread, unit**2 * float(h.var()), max(apart**2 - chance, 0.0))


def _worth(predicted: Array, actual: Array) -> float:
    """Return by how much predictions are multiplied, 0 to 1, to leave least: a poor predictor must not add noise."""
    spread = float(predicted.var())
    slope = float(np.cov(predicted, actual, ddof=0)[0, 1]) / spread if spread > 1e-18 else 0.0
    return min(max(slope, 0.0), 1.0)


def size_match(problem: Problem, score: float, models: Sequence[Array], mean: Array, cuts: Array) -> Match:
    """Return what the mean of the models scores above one model a row.

    `models`: K test predictions (N P); `mean` (N P): what is submitted; `score`: of one model a row; `cuts`: its cuts.
    """
    name, metric = problem.metric.name, problem.metric
    if len(models) == 1 or not np.isfinite(score):
        return Match(0.0, 0.0, exact=len(models) == 1)
    if name == "kl_divergence" and metric.built_in and problem.soft:
        # Less the entropy of the targets it is the log loss, which labels that are drawn can be scored by.
        loss = replace(problem, metric=METRICS["log_loss"])
        return size_match(loss, score + loss.judge(problem.y), models, mean, cuts)
    alike = problem.blocks is None and metric.shares is None and not np.isnan(problem.y).any()
    if metric.built_in and alike and name in ("rmse", "brier", "r2"):
        less = ambiguity(models, mean)
        if name == "rmse":
            return Match(float(np.sqrt(max(score**2 - less.mean(), 0.0)) - score), 0.0, exact=True)
        if name == "r2":
            return Match(float((less / problem.y.reshape(len(problem.y), -1).var(0)).mean()), 0.0, exact=True)
        return Match(-float(less.sum() if problem.task.name == "multiclass" else less.mean()), 0.0, exact=True)
    if metric.draws and problem.soft:
        return Match(0.0, 0.0, exact=False)  # labels that are drawn are hard: they say nothing of such a score
    gain = _expected_gain(problem, score, models, mean, cuts)
    return Match(gain, ERROR * abs(gain), exact=False)


def size_matched(
    problem: Problem,
    report: dict[str, Any],
    decision: dict[str, Any] | None,
    models: Sequence[Array],
    mean: Array,
    repeats: int = 1,
) -> dict[str, Any]:
    """Return the scores of a run with what the mean of its models is expected to score beside that of one a row.

    With `repeats` an out-of-fold row is the mean of as many models, and so is each of `models`. Of several targets
    together nothing is expected: labels are drawn for one task.
    """
    if problem.task.name == "several":
        return report
    scale, se = Scale.of(problem.metric), report["se"]
    cuts = np.array(decision["cuts"]) if decision else problem.task.default_cuts(problem.classes)
    start = float(scale.inside(report["score"], se))
    match = size_match(problem, start, models, mean, cuts)
    expected = float(scale.inside(start + match.gain, se / 4))
    found = {"score": expected, "se": float(np.hypot(se, match.se)), "models": len(models) * repeats}
    return report | {"size_matched": found}


def ambiguity(models: Sequence[Array], mean: Array) -> Array:
    """Return by column (P,) the mean squared error of one model a row less that of `mean`.

    Where `mean` is the models' mean this holds for any labels, on every row; else labels are taken to scatter about
    the models' mean.
    """
    centre = np.mean([m.astype(np.float64) for m in models], 0)
    return np.asarray(np.mean([((m - centre) ** 2).mean(0) for m in models], 0) - ((mean - centre) ** 2).mean(0))


def _expected_gain(problem: Problem, score: float, models: Sequence[Array], mean: Array, cuts: Array) -> float:
    """Return the metric of the mean less that of one model a row under labels on which the latter scores `score`."""
    task, metric = problem.task, problem.metric
    default = np.array_equal(cuts, task.default_cuts(problem.classes))
    moved = cuts if default else match_ensemble(task, cuts, list(models), mean)
    # Sorted by their predictions, rows meet the same random numbers in whatever order they came.
    order = np.lexsort(mean.T)
    stack, mean = np.stack(models)[:, order], mean[order].astype(np.float64)

    def scores(rows: int, sharpness: float) -> tuple[float, float]:
        row, model, u = _draws(len(mean), len(stack), mean.shape[1], rows)
        y = _labels(task, mean, u, row, sharpness, problem.classes)
        try:
            return metric(task, y, stack[model, row], cuts), metric(task, y, mean[row], moved)
        except UserError:  # a metric file that cannot score labels which nobody gave it
            return float("nan"), float("nan")

    low, high = np.log(1 / 32), np.log(32)
    for _ in range(12):
        middle = (low + high) / 2
        # The sharper the labels, the better one model a row scores.
        one = scores(SOUGHT, np.exp(middle))[0]
        low, high = (middle, high) if metric.gain(score, one) > 0 else (low, middle)
    one, all_of_them = scores(TAKEN, np.exp((low + high) / 2))
    return float(np.nan_to_num(all_of_them - one))


def _draws(n: int, k: int, width: int, rows: int) -> tuple[Array, Array, Array]:
    """Return for each draw its row, the model that predicts it, and uniform numbers spread evenly (rows x width)."""
    rng = np.random.default_rng(0)
    place = np.arange(-(-rows // n) * n if n < rows else rows)
    row = place % n if n < rows else place * n // rows
    u = np.column_stack([rng.permutation(len(place)) for _ in range(width)])
    return row, (row + place // n) % k, (u + rng.random(u.shape)) / len(place)


def _labels(task: Task, mean: Array, u: Array, row: Array, sharpness: float, grades: int) -> Array:
    """Draw labels about the mean: probabilities to the power of the sharpness, values with normal errors."""
    if task.name == "multiclass":
        below = np.cumsum(np.maximum(mean, 1e-9) ** sharpness, 1)[row]
        return np.asarray((u[:, :1] * below[:, -1:] > below).sum(1).clip(max=mean.shape[1] - 1))
    if task.probabilities:
        one, other = (np.maximum(p, 1e-9) ** sharpness for p in (mean, 1 - mean))
        y = (u < (one / (one + other))[row]).astype(np.int64)
        return y if task.name == "multilabel" else y[:, 0]
    from scipy.special import ndtri

    y = mean[row] + np.maximum(mean.std(0), 1e-9) / sharpness * ndtri(u.clip(1e-12, 1 - 1e-12))
    return np.asarray(y if task.name == "regression" else np.rint(y[:, 0]).clip(0, grades - 1).astype(np.int64))
