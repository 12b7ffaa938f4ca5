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
# So many rows are looked at at once: this is all that the solver needs beside its input.
BLOCK = 1024


def convex_log_loss(true: Array, weight: Array | None = None) -> tuple[Array, float]:
    """Minimise -mean log(true @ w) over the simplex; return w (M,) and the certified gap to the optimum.

    `true` (N M) holds each member's probability of what happened. On w >= 0 the problem -mean log(true @ w) + sum(w)
    has its optimum on the simplex (Kim, Carbonetto, Stephens and Anitescu 2020, mixSQP), so every Newton step is a
    non-negative least squares problem. The gap is that of Frank and Wolfe, max_m(-gradient_m) - 1 >= f(w) - f(optimum).
    """
    m = true.shape[1]
    share, w = None if weight is None else weight / weight.sum(), np.full(m, 1 / m)
    if true.min() < EPS:
        true = np.maximum(true, EPS)
    loss, slope, hessian = _derivatives(true, share, w)
    for _ in range(100):
        gap = float(slope.max() - 1)
        if gap <= TOLERANCE:
            break
        root = np.linalg.cholesky(hessian + 1e-12 * np.trace(hessian) * np.eye(m)).T
        # Gradient of f + sum(w) is 1 - slope; the Newton point minimises |root v - root^-T (H w - gradient)|.
        step = nnls(root, np.linalg.solve(root.T, hessian @ w - (1 - slope)))[0] - w
        length = 1.0
        while length > 1e-10:
            point = w + length * step
            total = float(point.sum())
            found = _derivatives(true, share, point) if total > 0 else (np.inf, slope, hessian)
            if found[0] + total <= loss + w.sum() + 1e-4 * length * float(step @ (1 - slope)) + 1e-15:
                # On the simplex again: the loss of w / c is that of w plus log c.
                w, loss, slope, hessian = point / total, found[0] + np.log(total), found[1] * total, found[2] * total**2
                break
            length /= 2
        else:
            break
    return w, max(gap, 0.0)


def _derivatives(true: Array, share: Array | None, w: Array) -> tuple[float, Array, Array]:
    """Return -mean log(true @ w), minus its gradient (M,) and its Hessian (M M), a block of rows at a time."""
    n, m = true.shape
    loss, slope, hessian, buffer = 0.0, np.zeros(m), np.zeros((m, m)), np.empty((m, min(n, BLOCK))).T
    for at in range(0, n, BLOCK):
        block = true[at : at + BLOCK]
        mixed = block @ w
        weight = np.full(len(block), 1 / n) if share is None else share[at : at + BLOCK]
        loss -= float(weight @ np.log(mixed))
        scaled = np.multiply(block, (np.sqrt(weight) / mixed)[:, None], out=buffer[: len(block)])
        slope += np.sqrt(weight) @ scaled
        hessian += scaled.T @ scaled
    return loss, slope, hessian


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


def true_probability(task: Task, y: Array, members: Sequence[Array]) -> Array:
    """Return the probability (M N) that members gave to what happened; of labels, each an event, M N*L."""
    place = np.arange(0, members[0].size, members[0].shape[1]) + y if task.name == "multiclass" else None
    true = np.empty((len(members), y.size), members[0].dtype)
    if place is not None:
        for row, p in zip(true, members, strict=True):
            np.take(p.reshape(-1), place, out=row, mode="clip")  # other modes make a copy
        return true
    for row, p in zip(true, members, strict=True):
        row[:] = np.where(y.reshape(p.shape) == 1, p, 1 - p).ravel()
    return true


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
    if task.probabilities and y.dtype.kind != "f":
        true = true_probability(task, y, members)
        return convex_log_loss(true.T, None if weight is None else weight.repeat(y.size // len(y)))
    even = np.ones(len(y)) if weight is None else weight
    if task.probabilities:
        return convex_log_loss(np.column_stack([events(task, y, p) for p in members]), event_weights(task, y, even))
    errors = np.column_stack([(p.astype(np.float64) - y.reshape(len(y), -1)).ravel() for p in members])
    if weight is None and not np.isnan(errors).any():
        return convex_squared(errors.T @ errors / len(errors))
    mass = even.repeat(len(errors) // len(y)) * np.isfinite(errors[:, 0])
    errors = np.nan_to_num(errors)
    return convex_squared((errors.T * mass) @ errors / mass.sum())
