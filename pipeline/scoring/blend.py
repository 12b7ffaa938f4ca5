"""Blend weights: a certified convex optimum for log loss and squared error, greedy selection for any metric.

Only the probability of the true class enters the log loss of a weighted mean, so the solver sees N x M numbers instead
of N x M x C. Members are (N, P) arrays in the shapes of `pipeline.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import nnls

from pipeline.scoring.bootstrap import adopt, resamples
from pipeline.scoring.cuts import Problem
from pipeline.scoring.metrics import EPS
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


def convex(task: Task, y: Array, members: Sequence[Array]) -> tuple[Array, float]:
    """Return the convex weights and their gap: log loss for probabilities, squared error for values."""
    if task.probabilities:
        return convex_log_loss(np.column_stack([true_probability(task, y, p) for p in members]))
    errors = np.column_stack([(p.astype(np.float64) - y.reshape(len(y), -1)).ravel() for p in members])
    return convex_squared(errors.T @ errors / len(errors))


def greedy(
    members: Sequence[Array],
    score: Callable[[Array, Array], float],
    resamples: Sequence[Array],
    steps: int,
) -> Array:
    """Select with replacement (Caruana 2004), bagged: `score(prediction, row weight)` is maximised.

    Each bag is one row weighting of `resamples`; it starts from its best member, adds the member that helps most, and
    keeps its best prefix. Return the mean weights (M,) of the bags.
    """
    totals = np.zeros(len(members))
    for weight in resamples:
        first = int(np.argmax([score(p, weight) for p in members]))
        counts, running = np.bincount([first], minlength=len(members)), members[first].astype(np.float64)
        best_score, best = score(running, weight), counts / counts.sum()
        for size in range(2, steps + 1):
            scores = [score((running + p) / size, weight) for p in members]
            pick = int(np.argmax(scores))
            running = running + members[pick]
            counts[pick] += 1
            if scores[pick] > best_score:
                best_score, best = scores[pick], counts / counts.sum()
        totals += best
    return np.asarray(totals / totals.sum())


@dataclass(frozen=True)
class Weights:
    """Cross-fitted weights: the blend of the OOF rows (N P), weights and method of each fold, and the deployed ones."""

    oof: Array
    by_fold: dict[int, Array]
    methods: dict[int, str]
    deployed: Array
    method: str
    gap: float | None


@dataclass(frozen=True)
class Blend:
    """How weights are fitted: members (N P each, already in the blend space), targets, metric and method."""

    problem: Problem
    members: Sequence[Array]
    space: str
    method: str
    hand: Array | None = None
    seed: int = 0
    steps: int = 25
    bags: int = 5

    def predict(self, weights: Array) -> Array:
        """Return the blend of all rows."""
        return from_space(self.problem.task, mix(self.members, weights), self.space)

    def fit(self, rows: Array, method: str | None = None) -> tuple[Array, str, float | None]:
        """Fit weights on the rows of a mask; return them, the method used, and the gap where one is certified."""
        method = method or self.method
        count = len(self.members)
        if method == "uniform":
            return np.full(count, 1 / count), method, None
        if method == "hand":
            assert self.hand is not None
            return self.hand / self.hand.sum(), method, None
        members = [p[rows] for p in self.members]
        if method == "convex":
            weights, gap = convex(self.problem.task, self.problem.y[rows], members)
            return weights, method, gap
        if method == "greedy":
            return self._greedy(rows, members), method, None
        return self.fit(rows, self.choose(rows))

    def choose(self, rows: Array) -> str:
        """Choose a method by its cross-fitted gain over uniform inside `rows`, through the gate."""
        problem = self.problem
        inner = np.unique(problem.folds[rows])
        if len(inner) < 2 or len(self.members) < 2:
            return "uniform"
        y, cuts = problem.y[rows], problem.task.default_cuts(problem.classes)
        scorers: dict[str, Callable[[Array], float]] = {}
        for method in ("uniform", "convex", "greedy") if self.space == "probability" else ("uniform", "greedy"):
            blend = np.zeros_like(self.members[0])
            for k in inner:
                mine = rows & (problem.folds == k)
                blend[mine] = self.predict(self.fit(rows & ~mine, method)[0])[mine]
            scorers[method] = partial(problem.metric, problem.task, y, blend[rows], cuts)
        return adopt(scorers, problem.metric.gain, len(y), None if problem.group is None else problem.group[rows])

    def crossfit(self) -> Weights:
        """Fit the weights of each fold without it, and the deployed ones on all rows."""
        folds = self.problem.folds
        by_fold, methods, oof = {}, {}, np.zeros(self.members[0].shape, np.float32)
        for k in np.unique(folds).tolist():
            by_fold[k], methods[k], _ = self.fit(folds != k)
            oof[folds == k] = self.predict(by_fold[k])[folds == k]
        return Weights(oof, by_fold, methods, *self.fit(np.ones(len(folds), bool)))

    def _greedy(self, rows: Array, members: list[Array]) -> Array:
        problem = self.problem
        y, cuts = problem.y[rows], problem.task.default_cuts(problem.classes)

        def score(prediction: Array, weight: Array) -> float:
            value = problem.metric(problem.task, y, from_space(problem.task, prediction, self.space), cuts, weight)
            return float(np.nan_to_num(problem.metric.gain(value, 0.0), nan=-np.inf))

        group = None if problem.group is None else problem.group[rows]
        return greedy(members, score, list(resamples(len(y), group, self.bags, self.seed)), self.steps)


def to_space(task: Task, prediction: Array, space: str, blocks: Array | None = None) -> Array:
    """Carry a prediction (N P) to the blend space; ranks are taken inside each block (fold), never pooled."""
    p = prediction.astype(np.float64)
    if space == "logit":
        p = np.clip(p, EPS, 1 - EPS)
        return np.log(p) if task.name == "multiclass" else np.log(p) - np.log1p(-p)
    if space == "rank":
        ranks = np.empty_like(p)
        for block in np.unique(blocks) if blocks is not None else [0]:
            rows = slice(None) if blocks is None else blocks == block
            ranks[rows] = _average_rank(p[rows])
        return ranks
    return p


def from_space(task: Task, blend: Array, space: str) -> Array:
    """Carry a blend back: logits to probabilities, ranks and probabilities as they are."""
    if space != "logit":
        return blend
    if task.name == "multiclass":
        shifted = np.exp(blend - blend.max(1, keepdims=True))
        return np.asarray(shifted / shifted.sum(1, keepdims=True))
    return np.asarray(1 / (1 + np.exp(-blend)))


def mix(members: Sequence[Array], weights: Array) -> Array:
    """Return the weighted mean of members (N P)."""
    return np.asarray(sum(w * p for w, p in zip(weights, members, strict=True)))


def _average_rank(p: Array) -> Array:
    """Return ranks scaled to (0, 1) column by column; ties get their mean rank."""
    ranks = np.empty_like(p)
    for c in range(p.shape[1]):
        _, index, counts = np.unique(p[:, c], return_inverse=True, return_counts=True)
        ranks[:, c] = (np.cumsum(counts) - counts / 2)[index] / len(p)
    return ranks


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
