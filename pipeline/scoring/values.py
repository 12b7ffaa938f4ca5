"""Metrics of values (N, or N T for several targets), on whole arrays with sample weights."""

from __future__ import annotations

import numpy as np

from pipeline.store.files import Array


def rmse(y: Array, p: Array, weight: Array) -> float:
    """Return the root of the mean squared error, in target units, pooled over targets.

    Where values are unknown (NaN) the mean is taken over the targets, of each over its known rows.
    """
    if y.dtype.kind == "f" and np.isnan(y).any():
        known = ~np.isnan(y)
        mass = weight @ known
        squares = weight @ np.where(known, y - p.astype(np.float64), 0.0) ** 2
        return float(np.sqrt((squares[mass > 0] / mass[mass > 0]).mean())) if mass.any() else float("nan")
    return float(np.sqrt(np.average(squared_rows(y, p), weights=weight)))


def squared_rows(y: Array, p: Array) -> Array:
    """Return the squared error of each row, mean over targets."""
    return _by_row((y - p.astype(np.float64)) ** 2)


def mcrmse(y: Array, p: Array, weight: Array) -> float:
    """Return the mean over targets of the root mean squared error, each in its own units."""
    error = np.square(y - p.astype(np.float64)).reshape(len(y), -1)
    return float(np.sqrt(np.average(error, axis=0, weights=weight)).mean())


def mae(y: Array, p: Array, weight: Array) -> float:
    """Return the mean absolute error, in target units, pooled over targets."""
    return float(np.average(absolute_rows(y, p), weights=weight))


def absolute_rows(y: Array, p: Array) -> Array:
    """Return the absolute error of each row, mean over targets."""
    return _by_row(np.abs(y - p.astype(np.float64)))


def pinball(quantile: float, y: Array, p: Array, weight: Array) -> float:
    """Return the pinball loss of a quantile, in target units, mean over targets."""
    return float(np.average(pinball_rows(quantile, y, p), weights=weight))


def pinball_rows(quantile: float, y: Array, p: Array) -> Array:
    """Return the pinball loss of each row: `quantile` times what a prediction falls short, the rest what it exceeds."""
    error = y - p.astype(np.float64)
    return _by_row(np.maximum(quantile * error, (quantile - 1) * error))


def r2(y: Array, p: Array, weight: Array) -> float:
    """Return the coefficient of determination, mean over targets; NaN where a target is constant."""
    y, p = (v.astype(np.float64).reshape(len(y), -1) for v in (y, p))
    # Measured from a row that counts, a constant target is exactly zero, however its mean is rounded.
    shifted = y - y[np.argmax(weight)]
    spread = weight @ (shifted - weight @ shifted / weight.sum()) ** 2
    score = 1 - np.divide(weight @ (y - p) ** 2, spread, out=np.full(y.shape[1], np.nan), where=spread > 0)
    return float(score.mean())


def r2_rows(y: Array, p: Array) -> Array:
    """Return what each row brings to the coefficient of determination."""
    spread = np.maximum(y.reshape(len(y), -1).var(0), np.finfo(float).tiny)
    return np.asarray((1 - (y - p.astype(np.float64)).reshape(len(y), -1) ** 2 / spread).mean(1))


def pearson(y: Array, p: Array, weight: Array) -> float:
    """Return the correlation of values, mean over targets; NaN where one of the two is constant."""
    y, p = (v.astype(np.float64).reshape(len(y), -1) for v in (y, p))
    return float(np.mean([_correlation(y[:, c], p[:, c], weight) for c in range(y.shape[1])]))


def spearman(y: Array, p: Array, weight: Array) -> float:
    """Return the correlation of ranks, mean over targets; ties have their mean rank."""
    y, p = (v.astype(np.float64).reshape(len(y), -1) for v in (y, p))
    ranks = [[_ranks(v[:, c], weight) for c in range(y.shape[1])] for v in (y, p)]
    return float(np.mean([_correlation(a, b, weight) for a, b in zip(*ranks, strict=True)]))


def _correlation(a: Array, b: Array, weight: Array) -> float:
    a, b = (v - v[np.argmax(weight)] for v in (a, b))  # a constant is exactly zero, as in `r2`
    a, b = (v - weight @ v / weight.sum() for v in (a, b))
    spread = float(np.sqrt(weight @ a**2) * np.sqrt(weight @ b**2))
    return float(weight @ (a * b)) / spread if spread > 0 else float("nan")


def _ranks(values: Array, weight: Array) -> Array:
    """Return the rank of each row: the weight below it and half of that at its value."""
    at = np.unique(values, return_inverse=True)[1]
    mass = np.bincount(at, weight)
    return np.asarray((np.cumsum(mass) - mass / 2)[at])


def _by_row(error: Array) -> Array:
    return np.asarray(error.mean(1) if error.ndim == 2 else error)
