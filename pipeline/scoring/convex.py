"""Convex blend weights: the certified optimum of log loss and squared error.

Only the probability of the true class enters the log loss of a weighted mean, so the solver sees N x M numbers instead
of N x M x C. Members are (N, P) arrays in the shapes of `pipeline.tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from pipeline.scoring.classification import EPS
from pipeline.store.files import Array
from pipeline.tasks import Task

TOLERANCE = 1e-10


def convex_log_loss(true: Array, weight: Array | None = None) -> tuple[Array, float]:
    """Minimise -mean log(true @ w) over the simplex; return w (M,) and the certified gap to the optimum.

    `true` (N M) holds each member's probability of what happened. On w >= 0 the problem -mean log(true @ w) + sum(w)
    has its optimum on the simplex (Kim, Carbonetto, Stephens and Anitescu 2020, mixSQP), so every Newton step is a
    non-negative least squares problem. The gap is that of Frank and Wolfe, max_m(-gradient_m) - 1 >= f(w) - f(optimum).
    """
    n, m = true.shape
    share = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    used = share > 0
    true, share = np.maximum(true[used].astype(np.float64), EPS), share[used]
    w, root_share = np.full(m, 1 / m), np.sqrt(share)
    for _ in range(100):
        scaled = true * (root_share / (true @ w))[:, None]
        slope = root_share @ scaled
        gap = float(slope.max() - 1)
        if gap <= TOLERANCE:
            break
        hessian = scaled.T @ scaled
        root = np.linalg.cholesky(hessian + 1e-12 * np.trace(hessian) * np.eye(m)).T
        # Gradient of f + sum(w) is 1 - slope; the Newton point minimises |root v - root^-T (H w - gradient)|.
        target = np.linalg.solve(root.T, hessian @ w - (1 - slope))
        step = nnls(root, target)[0] - w
        w = _line_search(true, share, w, step, float(step @ (1 - slope)))
        w = w / w.sum()
    return w, max(gap, 0.0)


def convex_squared(residuals: Array) -> tuple[Array, float]:
    """Minimise w' E w over the simplex for E (M M), the mean products of the members' residuals; return w and the gap.

    The objective is homogeneous, so the optimum is that of min v'Ev/2 - sum(v) over v >= 0, scaled to sum 1.
    """
    m = len(residuals)
    scale = max(float(np.trace(residuals)) / m, np.finfo(float).tiny)
    e = residuals / scale
    root = np.linalg.cholesky(e + 1e-14 * m * np.eye(m)).T
    v = nnls(root, np.linalg.solve(root.T, np.ones(m)))[0]
    w = v / v.sum()
    slope = 2 * e @ w
    return w, float(max(slope @ w - slope.min(), 0.0) * scale)


def true_probability(task: Task, y: Array, member: Array) -> Array:
    """Return the probability (N,) that a member gave to what happened; N*L for labels, where each entry is an event."""
    if task.name == "multiclass":
        return member[np.arange(len(y)), y]
    y = y.reshape(len(y), -1)
    return np.where(y == 1, member, 1 - member).ravel()


def events(task: Task, y: Array, member: Array) -> Array:
    """Return the probabilities (N*E,) that a member gives to all that soft targets say may have happened."""
    if task.name == "multiclass":
        return member.ravel()
    return np.stack([member, 1 - member], 2).ravel()


def event_weights(task: Task, y: Array, weight: Array) -> Array:
    """Return how much each entry of `events` weighs: the target's own share of it, 0 where it is unknown."""
    wide = np.asarray(y, np.float64).reshape(len(y), -1)
    shares = wide if task.name == "multiclass" else np.stack([wide, 1 - wide], 2).reshape(len(y), -1)
    return np.asarray((np.nan_to_num(shares) * weight[:, None]).ravel())


def convex(task: Task, y: Array, members: Sequence[Array], weight: Array | None = None) -> tuple[Array, float]:
    """Return the convex weights and their gap: log loss for probabilities, squared error for values.

    Targets may be soft or partly unknown (NaN); `weight` (N,) are sample weights.
    """
    counted, even = y.dtype.kind == "f", np.ones(len(y)) if weight is None else weight
    if task.probabilities and counted:
        return convex_log_loss(np.column_stack([events(task, y, p) for p in members]), event_weights(task, y, even))
    if task.probabilities:
        true = np.column_stack([true_probability(task, y, p) for p in members])
        return convex_log_loss(true, None if weight is None else weight.repeat(len(true) // len(y)))
    errors = np.column_stack([(p.astype(np.float64) - y.reshape(len(y), -1)).ravel() for p in members])
    if weight is None and not np.isnan(errors).any():
        return convex_squared(errors.T @ errors / len(errors))
    mass = even.repeat(len(errors) // len(y)) * np.isfinite(errors[:, 0])
    errors = np.nan_to_num(errors)
    return convex_squared((errors.T * mass) @ errors / mass.sum())


def _line_search(true: Array, share: Array, w: Array, step: Array, slope: float) -> Array:
    """Return the point along a Newton step with a sufficient decrease; `slope` is the derivative along the step."""
    before, length = -(share @ np.log(true @ w)) + w.sum(), 1.0
    while length > 1e-10:
        point = w + length * step
        mixed = true @ point
        if mixed.min() > 0 and -(share @ np.log(mixed)) + point.sum() <= before + 1e-4 * length * slope + 1e-15:
            return np.asarray(point)
        length /= 2
    return w
