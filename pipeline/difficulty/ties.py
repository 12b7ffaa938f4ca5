"""Near ties: rows whose two best answers are almost level; can another feature tell them apart, does a rule help?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import xlogy

from pipeline.difficulty.labels import logistic, splits
from pipeline.difficulty.risk import auroc_inside
from pipeline.forecast.candidates import minority
from pipeline.scoring.bootstrap import gate, replicate, standard_error
from pipeline.scoring.classification import EPS
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array
from pipeline.tasks import Task

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A pair that a classifier on the model's own features tells apart by more than this is no overlap of the classes.
SEPARABLE = 0.8
# Fewer near-tied rows of either class say nothing.
FEWEST = 5


@dataclass(frozen=True)
class Reader:
    """One model's embeddings of the scored rows (N F), the rows it trained on (N,) and those it answers for (N,)."""

    embeddings: Array
    trained: Array
    answers: Array


def margin(task: Task, prediction: Array) -> Array:
    """Return the best answer's lead over the second (N,), 0..1; of several labels the least; values: no ties, all 1.

    Between the two nearest grades the lead is that of linear shares: 0 halfway, 1 on a grade.
    """
    p = prediction.astype(np.float64)
    if task.name == "multiclass":
        return np.asarray(np.diff(np.partition(p, (-2, -1), axis=1)[:, -2:], axis=1)[:, 0])
    if task.probabilities:
        return np.asarray(np.abs(2 * p - 1).min(1))
    return np.abs(2 * (p[:, 0] % 1) - 1) if task.cuts else np.ones(len(p))


def shares(near: Array, wrong: Array) -> dict[str, float]:
    """Return the share of rows that are near-tied, the share of all errors among them, and how often they are wrong."""
    errors, rows = float((near & wrong).sum()), float(near.sum())
    return {
        "rows": float(near.mean()),
        "errors": errors / max(float(wrong.sum()), 1.0),
        "error": errors / rows if rows else float("nan"),
    }


def pairs(problem: Problem, prediction: Array, near: Array, readers: Sequence[Reader], most: int = 10) -> list[Any]:
    """Return, for the pairs of classes with most near ties, whether the models' own features tell them apart.

    Inside each model a logistic regression is fitted on the rows of the pair that it trained on and judged on near-tied
    rows of the pair that it never saw; the AUC is of comparisons inside models.
    """
    first, second = np.argsort(-prediction, axis=1, kind="stable")[:, :2].T
    low, high = np.minimum(first, second), np.maximum(first, second)
    (a, b), count = np.unique(np.stack([low, high])[:, near], axis=1, return_counts=True)
    found = []
    for j in np.argsort(-count, kind="stable")[:most]:
        tied = near & (low == a[j]) & (high == b[j])
        errors = int((tied & (first != problem.y)).sum())
        entry: dict[str, Any] = {"pair": [int(a[j]), int(b[j])], "rows": int(count[j]), "errors": errors}
        found.append(entry | separability(problem, int(a[j]), int(b[j]), tied, readers))
    return found


def separability(problem: Problem, a: int, b: int, tied: Array, readers: Sequence[Reader]) -> dict[str, Any]:
    """Return AUC, standard error and verdict on two classes."""
    ours = np.isin(problem.y, (a, b))
    sizes = [int((tied & (problem.y == c)).sum()) for c in (a, b)]
    if min(sizes) < FEWEST:
        return {"auc": float("nan"), "se": float("nan"), "verdict": "too few rows"}
    judged = [_judge(problem, b, ours, tied, reader) for reader in readers]
    rows, scores = (np.concatenate(part) for part in zip(*judged, strict=True))
    blocks = np.repeat(np.arange(len(judged)), [len(found) for found, _ in judged])

    inside = auroc_inside(problem.y[rows] == b, scores, blocks)

    def area(weight: Array) -> float:
        return inside(weight[rows])

    auc = area(np.ones(len(tied)))
    verdict = "separable: model problem" if auc > SEPARABLE else "overlap"
    return {"auc": auc, "se": standard_error(area, len(tied), problem.group), "verdict": verdict}


def prior_adjusted(prediction: Array, prior: Array, tau: float) -> Array:
    """Return probabilities whose arg max is that of log p - tau log prior (Menon 2021)."""
    log = np.log(np.clip(prediction.astype(np.float64), EPS, 1)) - xlogy(tau, prior)
    odds = np.exp(log - log.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def rules(problem: Problem, prediction: Array, limit: float) -> dict[str, Any]:
    """Return what the minority rule and the prior-adjusted decision are worth, cross-fitted, and which the gate passes.

    For each fold the class sizes and tau (of a small grid, by the metric) come from the other folds.
    """
    metric, y = problem.metric, problem.y
    voted, adjusted, taus = prediction.copy(), prediction.astype(np.float64), {}
    for rows, mine in splits(problem.folds):
        size = np.bincount(y[rows], minlength=problem.classes).clip(1)
        part = problem.part(rows)
        seen = [part.score(prior_adjusted(prediction[rows], size / size.sum(), tau)) for tau in TAUS]
        tau = TAUS[int(np.argmax(metric.gain(np.array(seen), 0.0)))]
        taus[int(problem.folds[mine][0])] = tau
        voted[mine] = minority(prediction[mine], size, limit)
        adjusted[mine] = prior_adjusted(prediction[mine], size / size.sum(), tau)
    candidates = {"minority": voted, "prior": adjusted}
    scorers: list[Callable[[Array], float]] = [
        partial(problem.score, p, None) for p in (prediction, *candidates.values())
    ]
    now, drawn = np.array([score(np.ones(len(y))) for score in scorers]), replicate(scorers, len(y), problem.group)
    gains, replicated = metric.gain(now[1:], now[:1]), metric.gain(drawn[:, 1:], drawn[:, :1])
    winner, lower = gate(gains, replicated)
    worth = {
        name: {"score": now[j + 1], "gain": gains[j], "se": replicated[:, j].std(ddof=1), "low": lower[j]}
        for j, name in enumerate(candidates)
    }
    return {"plain": now[0], **worth, "tau": taus, "adopted": None if winner is None else list(candidates)[winner]}


def _judge(problem: Problem, b: int, ours: Array, tied: Array, reader: Reader) -> tuple[Array, Array]:
    """Return the near-tied rows of a pair that a model answers for, and their scores for the second class."""
    fit, rows = ours & reader.trained, np.flatnonzero(ours & tied & reader.answers)
    second = problem.y[fit] == b
    if not len(rows) or second.all() or not second.any():
        return rows[:0], np.zeros(0)
    x = reader.embeddings[fit].astype(np.float64)
    center, spread = x.mean(0), np.where(x.std(0) > 1e-9, x.std(0), np.inf)
    balanced = np.where(second, (~second).sum() / second.sum(), 1.0)
    fitted = logistic((x - center) / spread, second, balanced)
    return rows, ((reader.embeddings[rows].astype(np.float64) - center) / spread) @ fitted[:-1]
