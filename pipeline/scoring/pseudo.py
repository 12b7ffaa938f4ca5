"""Pseudo-labels: how sure a prediction is, which rows are kept, what is said of them, and how right the rule is.

Predictions are N P in the shapes of `pipeline.tasks`. A row has E entries that are kept or not: its L labels for
multilabel (an uncertain label is unknown and weighs nothing), itself for every other task (E = 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.store.files import Array
from pipeline.tasks import Task


@dataclass(frozen=True)
class Rule:
    """A rule of selection: what counts as sure, what share of each predicted class is kept, and how sure at least."""

    select: str = "confidence"
    quota: float = 1.0
    threshold: float = 0.0
    stratify: bool = True


def sureness(task: Task, members: Array, cuts: Array, select: str) -> Array:
    """Return how sure predictions are (N E, in 0..1) from those of the teacher's members (M N P).

    `confidence`: the largest probability, ordinal: how far the grade is from its nearest cut; `margin`: the largest
    less the second; `agreement`: the share of members that decide as their mean does, times the confidence. A
    regression has only the agreement of its members: 1 / (1 + their sd in units of the sd over rows).
    """
    mean = members.mean(0)
    if task.name == "regression":
        scale = np.maximum(mean.std(0), 1e-12)
        return np.asarray(1 / (1 + (members.std(0) / scale).mean(1, keepdims=True)))
    if task.name == "multiclass":
        top = -np.partition(-mean, 1, axis=1)[:, :2] if mean.shape[1] > 1 else np.c_[mean, 0 * mean]
        sure = top[:, :1] - top[:, 1:] if select == "margin" else top[:, :1]
    elif task.name == "ordinal":
        sure = np.minimum(2 * np.abs(mean - cuts).min(1, keepdims=True), 1.0)
    else:
        sure = np.abs(2 * mean - 1) if select == "margin" else np.maximum(mean, 1 - mean)
    if select == "agreement":
        decided = entries(task, mean, cuts)
        sure = sure * np.mean([entries(task, member, cuts) == decided for member in members], axis=0)
    return np.asarray(sure)


def entries(task: Task, prediction: Array, cuts: Array) -> Array:
    """Return what is decided (N E): the label of each entry; a regression decides nothing (0)."""
    if task.name == "regression":
        return np.zeros((len(prediction), 1), np.int64)
    return np.asarray(task.decide(prediction, cuts).reshape(len(prediction), -1))


def choose(rule: Rule, sure: Array, decided: Array) -> Array:
    """Return which entries are kept (N E): the surest `quota` of each predicted class, where sure enough."""
    kept = np.zeros(sure.shape, bool)
    for e in range(sure.shape[1]):
        strata = decided[:, e] if rule.stratify else np.zeros(len(sure), np.int64)
        for label in np.unique(strata):
            rows = np.flatnonzero(strata == label)
            best = rows[np.argsort(-sure[rows, e], kind="stable")][: round(rule.quota * len(rows))]
            kept[best, e] = True
    return np.asarray(kept & (sure >= rule.threshold))


def say(task: Task, prediction: Array, kept: Array, cuts: Array, targets: str, temperature: float) -> Array:
    """Return what is said of the rows (N P): the decision, the prediction, or between the two; NaN where not kept.

    Sharpened probabilities are p^(1/T), made to sum to 1 again (Berthelot 2019); a grade is moved towards its decision.
    """
    said = prediction.astype(np.float64)
    if targets == "hard" and task.name == "multiclass":
        said = np.eye(prediction.shape[1])[prediction.argmax(1)]
    elif targets == "hard" and task.name != "regression":
        said = task.decide(prediction, cuts).reshape(len(prediction), -1).astype(np.float64)
    elif targets == "sharpened" and task.name == "multiclass":
        # By the largest first: at a low temperature the powers would all be 0.
        said = (said / said.max(1, keepdims=True)) ** (1 / temperature)
        said = said / said.sum(1, keepdims=True)
    elif targets == "sharpened" and task.probabilities:
        top = np.maximum(said, 1 - said)
        yes, no = (said / top) ** (1 / temperature), ((1 - said) / top) ** (1 / temperature)
        said = yes / (yes + no)
    elif targets == "sharpened" and task.name == "ordinal":
        said = said + (1 - temperature) * (task.decide(prediction, cuts)[:, None] - said)
    return np.where(kept, said, np.nan)


def right(task: Task, y: Array, prediction: Array, kept: Array, cuts: Array) -> tuple[Array, Array]:
    """Return the sum of right entries and the number of kept ones of each row (N, N); see `precision_name`."""
    if task.name == "regression":
        error = np.square(prediction - y.reshape(len(y), -1))
        mean = error.mean(1)
        part = np.isnan(mean)
        mean[part] = np.nanmean(error[part], 1)
        return mean * kept[:, 0], kept[:, 0].astype(np.float64)
    y = y.reshape(len(y), -1)
    kept = kept & (y == y)  # an unknown label (NaN) is neither right nor wrong
    hits = (entries(task, prediction, cuts) == y) & kept
    return hits.sum(1).astype(np.float64), kept.sum(1).astype(np.float64)


def agreement(task: Task, one: Array, other: Array, cuts: Array) -> float:
    """Return the share of entries that two predictions decide alike; values: 1 - squared distance / variance."""
    if task.name == "regression":
        return float(1 - np.square(one - other).mean() / max(np.square(other - other.mean(0)).mean(), 1e-12))
    return float((entries(task, one, cuts) == entries(task, other, cuts)).mean())


def class_entropy(task: Task, prediction: Array, cuts: Array) -> float:
    """Return the entropy in nats of what is decided over all rows, mean over entries (values: log of the sd)."""
    if task.name == "regression":
        return float(np.log(np.maximum(prediction.std(0), 1e-12)).mean())
    total = 0.0
    decided = entries(task, prediction, cuts)
    for column in decided.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        total -= float((share * np.log(share)).sum())
    return float(total / decided.shape[1])


def collapsing(now: dict[str, float], before: dict[str, float], n: int) -> str | None:
    """Say why another round would harm, None if nothing speaks against it: repeated self-training can collapse.

    The entropy of the decided classes falls by more than a tenth of a nat, or the agreement with the previous teacher
    falls below that of the round before by more than two standard errors of its share over `n` rows.
    """
    if now["entropy"] < before["entropy"] - 0.1:
        return f"class entropy fell from {before['entropy']:.3f} to {now['entropy']:.3f}"
    if "agreement" in now and "agreement" in before:
        noise = 2 * (before["agreement"] * (1 - min(before["agreement"], 1)) / max(n, 1)) ** 0.5
        if now["agreement"] < before["agreement"] - noise:
            return f"agreement with the previous teacher fell from {before['agreement']:.3f} to {now['agreement']:.3f}"
    return None
