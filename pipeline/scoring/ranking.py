"""Metrics of the order of predictions, on whole arrays with sample weights.

A class that is absent from `y` is left out of a macro average; if none is left the metric is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.store.files import Array

# ALASKA2: the curve counts twice where the true positive rate is below .4.
BANDS, BAND_WEIGHTS = (0.0, 0.4, 1.0), (2.0, 1.0)


def binary_roc_auc(y: Array, p: Array, weight: Array) -> float:
    """Return the area under the ROC curve of one label; ties count one half."""
    positive, negative = _cumulative(y, p, weight)
    if positive[-1] <= 0 or negative[-1] <= 0:
        return float("nan")
    trapezoids = np.diff(negative, prepend=0.0) * (positive + np.r_[0.0, positive[:-1]]) / 2
    return float(trapezoids.sum() / positive[-1] / negative[-1])


def weighted_auc(y: Array, p: Array, weight: Array) -> float:
    """Return the area under the ROC curve in bands of the true positive rate, weighted and normalised (ALASKA2)."""
    positive, negative = _cumulative(y, p, weight)
    if positive[-1] <= 0 or negative[-1] <= 0:
        return float("nan")
    hits, alarms = (np.r_[0.0, part / part[-1]] for part in (positive, negative))
    total = 0.0
    for low, high, times in zip(BANDS, BANDS[1:], BAND_WEIGHTS, strict=False):
        # The curve crosses the ends of a band between two points of it.
        crossed = np.interp((low, high), hits, alarms)
        x, t = np.r_[alarms, crossed], np.r_[hits, low, high]
        order = np.lexsort((t, x))
        inside = np.clip(t[order], low, high) - low
        total += times * float((np.diff(x[order]) * (inside[1:] + inside[:-1]) / 2).sum())
    return total / float(np.diff(BANDS) @ BAND_WEIGHTS)


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


def _cumulative(y: Array, p: Array, weight: Array) -> tuple[Array, Array]:
    """Return cumulated weight of positives and negatives at each distinct score, from the highest down."""
    order = np.argsort(-p, kind="stable")
    y, p, weight = y[order].astype(bool), p[order], weight[order]
    last = np.r_[np.flatnonzero(np.diff(p)), len(p) - 1]
    return np.cumsum(weight * y)[last], np.cumsum(weight * ~y)[last]
