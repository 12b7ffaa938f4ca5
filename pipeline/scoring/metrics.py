"""Competition metrics on whole arrays, with sample weights; never averages over batches.

Every function takes `(y, p, weight)`: `label` metrics get labels, `score` metrics get probabilities or values, in the
shapes of `pipeline.tasks` (binary and ordinal predictions flattened to N). A class that is absent from `y` is left
out of a macro average of AUC or average precision; if none is left the metric is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.tasks import Task

EPS = 1e-15


@dataclass(frozen=True)
class Metric:
    """A metric: its function, what it wants of a prediction, its direction and its tasks."""

    name: str
    function: Callable[[Array, Array, Array], float]
    label: bool
    greater: bool
    tasks: tuple[str, ...]

    def __call__(self, task: Task, y: Array, prediction: Array, cuts: Array, weight: Array | None = None) -> float:
        """Score predictions (N P) against targets; label metrics decide by `cuts` first."""
        weight = np.ones(len(y)) if weight is None else weight
        if self.label:
            return self.function(y, task.decide(prediction, cuts), weight)
        return self.function(y, prediction[:, 0] if task.name in ("binary", "ordinal") else prediction, weight)

    def gain(self, new: Array | float, old: Array | float) -> Array:
        """Return how much better `new` is than `old`, positive for better."""
        sign = 1 if self.greater else -1
        return np.asarray(sign * (np.asarray(new) - np.asarray(old)))


def accuracy(y: Array, p: Array, weight: Array) -> float:
    """Return the share of right rows (multilabel: every label of the row right)."""
    right = y == p
    return float(np.average(right.all(1) if right.ndim == 2 else right, weights=weight))


def balanced_accuracy(y: Array, p: Array, weight: Array) -> float:
    """Return the mean recall over the classes that occur in `y`."""
    total = np.bincount(y, weight)
    right = np.bincount(y, weight * (y == p))
    return float((right[total > 0] / total[total > 0]).mean())


def log_loss(y: Array, p: Array, weight: Array) -> float:
    """Return cross-entropy in nats (multilabel: mean over labels of the binary one)."""
    p = np.clip(p.astype(np.float64), EPS, 1 - EPS)
    if p.shape == y.shape:
        loss = -np.where(y == 1, np.log(p), np.log1p(-p))
        return float(np.average(loss.mean(1) if loss.ndim == 2 else loss, weights=weight))
    p = p / p.sum(1, keepdims=True)
    return float(np.average(-np.log(p[np.arange(len(y)), y]), weights=weight))


def brier(y: Array, p: Array, weight: Array) -> float:
    """Return the mean squared error of the probabilities (multiclass: summed over classes)."""
    if p.shape == y.shape:
        error = (p.astype(np.float64) - y) ** 2
        return float(np.average(error.mean(1) if error.ndim == 2 else error, weights=weight))
    error = p.astype(np.float64) ** 2
    true = p[np.arange(len(y)), y].astype(np.float64)
    return float(np.average(error.sum(1) - 2 * true + 1, weights=weight))


def binary_roc_auc(y: Array, p: Array, weight: Array) -> float:
    """Return the area under the ROC curve of one label; ties count one half."""
    positive, negative = _cumulative(y, p, weight)
    if positive[-1] <= 0 or negative[-1] <= 0:
        return float("nan")
    trapezoids = np.diff(negative, prepend=0.0) * (positive + np.r_[0.0, positive[:-1]]) / 2
    return float(trapezoids.sum() / positive[-1] / negative[-1])


def binary_average_precision(y: Array, p: Array, weight: Array) -> float:
    """Return the step-wise area under the precision-recall curve of one label."""
    positive, negative = _cumulative(y, p, weight)
    if positive[-1] <= 0:
        return float("nan")
    predicted = positive + negative
    precision = np.divide(positive, predicted, out=np.zeros_like(positive), where=predicted > 0)
    return float((np.diff(positive, prepend=0.0) * precision).sum() / positive[-1])


def one_vs_rest(binary: Callable[[Array, Array, Array], float], y: Array, p: Array, weight: Array) -> float:
    """Return the macro average of a binary score over classes or labels."""
    if p.ndim == 1:
        return binary(y, p, weight)
    truth = y if y.ndim == 2 else y[:, None] == np.arange(p.shape[1])
    scores = np.array([binary(truth[:, c], p[:, c], weight) for c in range(p.shape[1])])
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def f_beta(beta: float, average: str, y: Array, p: Array, weight: Array) -> float:
    """Return F-beta: `binary` of the second class, `macro` over classes or labels, `micro`, or `samples` (rows)."""
    if y.ndim == 1:
        # A row of weight 0 is a row left out (bootstrap, one fold): classes seen only there do not count.
        seen = weight > 0
        classes = [1] if average == "binary" else np.unique(np.concatenate([y[seen], p[seen]]))
        truth, guess = (v[:, None] == np.asarray(classes) for v in (y, p))
    else:
        truth, guess = y.astype(bool), p.astype(bool)
    hit = truth & guess
    if average == "samples":
        return float(np.average(f_score(hit.sum(1), guess.sum(1), truth.sum(1), beta), weights=weight))
    hits, predicted, actual = (weight @ part for part in (hit, guess, truth))
    if average == "micro":
        hits, predicted, actual = hits.sum(), predicted.sum(), actual.sum()
    return float(f_score(hits, predicted, actual, beta).mean())


def f_score(hit: Array, predicted: Array, actual: Array, beta: float = 1.0) -> Array:
    """Return (1+b^2) hit / (b^2 actual + predicted), 0 where nothing is predicted and nothing is there."""
    below = beta**2 * np.asarray(actual, float) + predicted
    return np.divide((1 + beta**2) * hit, below, out=np.zeros_like(below), where=below > 0)


def quadratic_kappa(y: Array, p: Array, weight: Array) -> float:
    """Return Cohen's kappa with quadratic weights: 1 - observed / expected squared distance of grades."""
    y, p = y.astype(np.float64), p.astype(np.float64)
    total = weight.sum()
    mean_y, mean_p = (weight @ v / total for v in (y, p))
    observed = weight @ (y - p) ** 2 / total
    spread = weight @ (y - mean_y) ** 2 / total + weight @ (p - mean_p) ** 2 / total
    expected = spread + (mean_y - mean_p) ** 2
    return float(1 - observed / expected) if expected > 0 else float("nan")


def rmse(y: Array, p: Array, weight: Array) -> float:
    """Return the root of the mean squared error, in target units, pooled over targets."""
    return float(np.sqrt(np.average(_by_row((y - p.astype(np.float64)) ** 2), weights=weight)))


def mae(y: Array, p: Array, weight: Array) -> float:
    """Return the mean absolute error, in target units, pooled over targets."""
    return float(np.average(_by_row(np.abs(y - p.astype(np.float64))), weights=weight))


def r2(y: Array, p: Array, weight: Array) -> float:
    """Return the coefficient of determination, mean over targets; NaN where a target is constant."""
    y, p = (v.astype(np.float64).reshape(len(y), -1) for v in (y, p))
    # Measured from a row that counts, a constant target is exactly zero, however its mean is rounded.
    shifted = y - y[np.argmax(weight)]
    spread = weight @ (shifted - weight @ shifted / weight.sum()) ** 2
    score = 1 - np.divide(weight @ (y - p) ** 2, spread, out=np.full(y.shape[1], np.nan), where=spread > 0)
    return float(score.mean())


def _by_row(error: Array) -> Array:
    return error.mean(1) if error.ndim == 2 else error


def _cumulative(y: Array, p: Array, weight: Array) -> tuple[Array, Array]:
    """Return cumulated weight of positives and negatives at each distinct score, from the highest down."""
    order = np.argsort(-p, kind="stable")
    y, p, weight = y[order].astype(bool), p[order], weight[order]
    last = np.r_[np.flatnonzero(np.diff(p)), len(p) - 1]
    return np.cumsum(weight * y)[last], np.cumsum(weight * ~y)[last]


_CLASSES = ("binary", "multiclass", "multilabel")
_VALUES = ("ordinal", "regression")
_ONE = ("binary", "multiclass", "ordinal")
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, True, True, (*_ONE, "multilabel")),
        Metric("balanced_accuracy", balanced_accuracy, True, True, _ONE),
        Metric("log_loss", log_loss, False, False, _CLASSES),
        Metric("brier", brier, False, False, _CLASSES),
        Metric("roc_auc", partial(one_vs_rest, binary_roc_auc), False, True, _CLASSES),
        Metric("average_precision", partial(one_vs_rest, binary_average_precision), False, True, _CLASSES),
        Metric("quadratic_kappa", quadratic_kappa, True, True, ("ordinal",)),
        Metric("rmse", rmse, False, False, _VALUES),
        Metric("mae", mae, False, False, _VALUES),
        Metric("r2", r2, False, True, _VALUES),
        *(
            Metric(f"f{beta:g}{suffix}", partial(f_beta, beta, average), True, True, tasks)
            for beta in (0.5, 1.0, 2.0)
            for suffix, average, tasks in (
                ("", "binary", ("binary",)),
                ("_macro", "macro", (*_ONE, "multilabel")),
                ("_micro", "micro", (*_ONE, "multilabel")),
                ("_samples", "samples", ("multilabel",)),
            )
        ),
    )
}


def get_metric(name: str, task: Task) -> Metric:
    """Return a metric by name, refused where it has no meaning for the task."""
    metric = resolve(METRICS, name, "metric")
    if not isinstance(metric, Metric):
        raise UserError(f"metric {name!r} must be a pipeline.scoring.metrics.Metric, not {type(metric).__name__}")
    if task.name not in metric.tasks:
        fitting = ", ".join(sorted(m.name for m in METRICS.values() if task.name in m.tasks))
        raise UserError(f"metric {name!r} does not fit a {task.name} task; choices: {fitting}")
    return metric
