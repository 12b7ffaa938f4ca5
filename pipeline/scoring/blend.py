"""Blend weights, cross-fitted: a certified convex optimum (see `convex`), greedy selection for any metric.

Members are (N, P) arrays in the shapes of `pipeline.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.scoring.bootstrap import adopt, resamples
from pipeline.scoring.classification import EPS
from pipeline.scoring.convex import convex
from pipeline.scoring.greedy import greedy
from pipeline.scoring.problem import Problem
from pipeline.scoring.trials import quick
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.store.shelves import read_stage
from pipeline.tasks import Task


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

    @property
    def convex(self) -> bool:
        """Say whether the optimum can be certified: in probabilities and values, of one target."""
        return self.space == "probability" and self.problem.task.name != "several"

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
            part = self.problem.part(rows)
            weights, gap = convex(part.task, part.y, members, part.weight)
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
        part = problem.part(rows)
        scorers: dict[str, Callable[[Array], float]] = {}
        for method in ("uniform", "convex", "greedy") if self.convex else ("uniform", "greedy"):
            blend = np.zeros_like(self.members[0])
            for k in inner:
                mine = rows & (problem.folds == k)
                blend[mine] = self.predict(self.fit(rows & ~mine, method)[0])[mine]
            scorers[method] = partial(part.score, blend[rows], part.cuts)
        return adopt(scorers, problem.metric.gain, len(part.y), part.group)

    def crossfit(self) -> Weights:
        """Fit the weights of each fold without it, and the deployed ones on all rows."""
        folds = self.problem.folds
        by_fold, methods, oof = {}, {}, np.zeros(self.members[0].shape, np.float32)
        for k in np.unique(folds).tolist():
            by_fold[k], methods[k], _ = self.fit(folds != k)
            oof[folds == k] = self.predict(by_fold[k])[folds == k]
        return Weights(oof, by_fold, methods, *self.fit(np.ones(len(folds), bool)))

    def _greedy(self, rows: Array, members: list[Array]) -> Array:
        part = self.problem.part(rows)

        def score(prediction: Array, draws: Array) -> float:
            value = part.score(from_space(part.task, prediction, self.space), part.cuts, draws)
            return float(np.nan_to_num(part.metric.gain(value, 0.0), nan=-np.inf))

        bags = list(resamples(len(part.y), part.group, self.bags, self.seed))
        # Logits are carried back before they are scored: such means are scored in full.
        fast = {} if self.space == "logit" else {"quick": quick(part, members)}
        return greedy(members, score, bags, self.steps, **fast)


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


def deployed(receipt: dict[str, Any]) -> Array:
    """Return the deployed weights that a blend's receipt tells."""
    return np.array(list(receipt["weights"].values()))


def compose(
    task: Task,
    name: str,
    weights: Callable[[dict[str, Any]], Array],
    below: dict[str, Array],
    blocks: Array | None = None,
) -> Array:
    """Return what a run predicts (N P) where the trained runs under it predict `below`.

    `weights(receipt)`: those of a blend; `blocks` (N,): within which ranks are taken (None: among all rows).
    """
    if name in below:
        return below[name]
    receipt = read_stage(name, "member", "ensemble")
    if "weights" not in receipt:
        raise UserError(f"{name} is a stacker: what other models would make it say is not known; name a blend")
    space = receipt["config"]["space"]
    members = [compose(task, parent["run"], weights, below, blocks) for parent in receipt["parents"]]
    mixed = mix([to_space(task, p, space, blocks) for p in members], weights(receipt))
    return from_space(task, mixed, space).astype(np.float32)


def _average_rank(p: Array) -> Array:
    """Return ranks scaled to (0, 1) column by column; ties get their mean rank."""
    ranks = np.empty_like(p)
    for c in range(p.shape[1]):
        _, index, counts = np.unique(p[:, c], return_inverse=True, return_counts=True)
        ranks[:, c] = (np.cumsum(counts) - counts / 2)[index] / len(p)
    return ranks
