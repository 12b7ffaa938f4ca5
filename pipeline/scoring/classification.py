"""Metrics of classes, labels and grades, on whole arrays with sample weights.

Functions `(y, p, weight) -> float` in the shapes of `pipeline.tasks`; those named `..._rows` are `(y, p) -> N`. Label
metrics get labels, the others probabilities (binary ones flattened to N). Targets of binary and label tasks may be soft
(0 to 1); soft classes (N C) have functions of their own.
"""

from __future__ import annotations

import numpy as np

from pipeline.store.files import Array

EPS = 1e-15


def accuracy(y: Array, p: Array, weight: Array) -> float:
    """Return the share of right rows (multilabel: every label of the row right, as far as it is known)."""
    known = known_labels(y)
    weight = weight if known is None else weight * known.any(1)
    return float(np.average(accuracy_rows(y, p), weights=weight)) if weight.any() else float("nan")


def accuracy_rows(y: Array, p: Array) -> Array:
    """Return whether each row is right, as far as it is known."""
    right, known = np.asarray(y == p), known_labels(y)
    right = right if known is None else right | ~known
    return np.asarray(right.all(1)) if right.ndim == 2 else right


def balanced_accuracy(y: Array, p: Array, weight: Array) -> float:
    """Return the mean recall over the classes that occur in `y`."""
    total = np.bincount(y, weight)
    right = np.bincount(y, weight * (y == p))
    return float((right[total > 0] / total[total > 0]).mean())


def log_loss(y: Array, p: Array, weight: Array) -> float:
    """Return cross-entropy in nats (multilabel: mean over labels of the binary one)."""
    return float(np.average(log_loss_rows(y, p), weights=weight))


def log_loss_rows(y: Array, p: Array) -> Array:
    """Return the cross-entropy of each row."""
    p = np.clip(p.astype(np.float64), EPS, 1 - EPS)
    if p.shape == y.shape:
        loss = -(y * np.log(p) + (1 - y) * np.log1p(-p))
        return np.asarray(loss.mean(1) if loss.ndim == 2 else loss)
    p = p / p.sum(1, keepdims=True)
    return np.asarray(-np.log(p[np.arange(len(y)), y]))


def soft_log_loss_rows(y: Array, p: Array) -> Array:
    """Return the cross-entropy of each row with soft classes (N C)."""
    p = np.clip(p.astype(np.float64), EPS, 1 - EPS)
    return np.asarray(-(y * np.log(p / p.sum(1, keepdims=True))).sum(1))


def entropy_rows(y: Array) -> Array:
    """Return the entropy in nats of soft classes (N C), which no cross-entropy can go below."""
    return np.asarray(-(y * np.log(np.where(y > 0, y, 1.0))).sum(1))


def kl_divergence(y: Array, p: Array, weight: Array) -> float:
    """Return the Kullback-Leibler divergence from the targets (multilabel: mean over labels); hard ones: log loss."""
    return float(np.average(kl_divergence_rows(y, p), weights=weight))


def kl_divergence_rows(y: Array, p: Array) -> Array:
    """Return the divergence of each row: log loss less the entropy of its target."""
    if p.shape != y.shape:
        return log_loss_rows(y, p)
    wide = y.reshape(len(y), -1).astype(np.float64)
    return np.asarray(log_loss_rows(y, p) - entropy_rows(np.stack([wide, 1 - wide], 1)).mean(1))


def soft_kl_divergence_rows(y: Array, p: Array) -> Array:
    """Return the divergence of each row from soft classes (N C)."""
    return soft_log_loss_rows(y, p) - entropy_rows(y)


def balanced_log_loss(y: Array, p: Array, weight: Array) -> float:
    """Return the mean over the classes that occur of the log loss of their rows."""
    total, loss = np.bincount(y, weight), np.bincount(y, weight * log_loss_rows(y, p))
    return float((loss[total > 0] / total[total > 0]).mean())


def brier(y: Array, p: Array, weight: Array) -> float:
    """Return the mean squared error of the probabilities (multiclass: summed over classes)."""
    if p.shape == y.shape:
        return float(np.average(brier_rows(y, p), weights=weight))
    error = p.astype(np.float64) ** 2
    true = p[np.arange(len(y)), y].astype(np.float64)
    return float(np.average(error.sum(1) - 2 * true + 1, weights=weight))


def brier_rows(y: Array, p: Array) -> Array:
    """Return the squared error of each row's probabilities."""
    if p.shape != y.shape:
        return soft_brier_rows(np.eye(p.shape[1])[y], p)
    error = (p.astype(np.float64) - y) ** 2
    return np.asarray(error.mean(1) if error.ndim == 2 else error)


def soft_brier_rows(y: Array, p: Array) -> Array:
    """Return the squared error of each row with soft classes (N C), summed over classes."""
    return np.asarray(((p - y) ** 2).sum(1))


def f_beta(beta: float, average: str, y: Array, p: Array, weight: Array) -> float:
    """Return F-beta: `binary` of the second class, `macro` over classes or labels, `micro`, or `samples` (rows).

    Unknown labels (NaN) are left out, and so are rows without a known one.
    """
    if y.ndim == 1:
        # A row of weight 0 is a row left out (bootstrap, one fold): classes seen only there do not count.
        seen = weight > 0
        classes = [1] if average == "binary" else np.unique(np.concatenate([y[seen], p[seen]]))
        truth, guess = (v[:, None] == np.asarray(classes) for v in (y, p))
    else:
        known = known_labels(y)
        truth, guess = known_sets(y, p)
        weight = weight if known is None else weight * known.any(1)
    if not weight.any():
        return float("nan")
    hit = truth & guess
    if average == "samples":
        return float(np.average(f_score(hit.sum(1), guess.sum(1), truth.sum(1), beta), weights=weight))
    hits, predicted, actual = (weight @ part for part in (hit, guess, truth))
    if average == "micro":
        hits, predicted, actual = hits.sum(), predicted.sum(), actual.sum()
    return float(f_score(hits, predicted, actual, beta).mean())


def f_samples_rows(beta: float, y: Array, p: Array) -> Array:
    """Return F-beta of each row's labels, as far as they are known."""
    truth, guess = known_sets(y, p)
    return f_score((truth & guess).sum(1), guess.sum(1), truth.sum(1), beta)


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


def linear_kappa(y: Array, p: Array, weight: Array) -> float:
    """Return Cohen's kappa with linear weights: 1 - observed / expected distance of grades."""
    grades = int(max(y.max(), p.max())) + 1
    given, said = (np.cumsum(np.bincount(v, weight, grades)) / weight.sum() for v in (y, p))
    # The distance of two grades is the number of steps of the scale on which just one of the two is beyond.
    expected = float((given * (1 - said) + said * (1 - given)).sum())
    observed = float(np.average(np.abs(y - p), weights=weight))
    return 1 - observed / expected if expected > 1e-12 else float("nan")


def place(y: Array, p: Array) -> Array:
    """Return the place (N,), from 0, of the true class (N,) among probabilities (N C); of equals the first comes first.

    In this order `make submit` writes the best labels of a row.
    """
    true = p[np.arange(len(y)), y][:, None]
    before = (p > true) | ((p == true) & (np.arange(p.shape[1]) < y[:, None]))
    return np.asarray(before.sum(1))


def map_at_rows(k: int, y: Array, p: Array) -> Array:
    """Return for each row 1 / (place of the true class among the k best), 0 beyond (its average precision at k)."""
    at = place(y, p)
    return np.where(at < k, 1 / (at + 1.0), 0.0)


def map_at(k: int, y: Array, p: Array, weight: Array) -> float:
    """Return the mean average precision at k of one true class a row."""
    return float(np.average(map_at_rows(k, y, p), weights=weight))


def top_rows(k: int, y: Array, p: Array) -> Array:
    """Return whether the true class is among the k best of each row."""
    return np.asarray(place(y, p) < k)


def top_accuracy(k: int, y: Array, p: Array, weight: Array) -> float:
    """Return the share of rows whose true class is among the k best."""
    return float(np.average(top_rows(k, y, p), weights=weight))


def known_labels(y: Array) -> Array | None:
    """Return which entries (N L) are known, None where all are."""
    unknown = np.isnan(y) if y.ndim == 2 and y.dtype.kind == "f" else np.zeros(1, bool)
    return ~unknown if unknown.any() else None


def known_sets(y: Array, p: Array) -> tuple[Array, Array]:
    """Return the true and the decided labels (N L) among the known ones."""
    known = known_labels(y)
    return (y.astype(bool), p.astype(bool)) if known is None else (y == 1, p.astype(bool) & known)
