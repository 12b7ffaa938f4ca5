"""Is the label of a row wrong? Evidence that looks at the label: out-of-fold confidence, training dynamics, neighbours.

The number of wrong labels comes from the confident joint (Northcutt, Jiang and Chuang 2021), who they are from the mean
of all evidence, weighed by a learner that never saw the row's fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_expit

from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# A modified z-score beyond this is an outlier (Iglewicz and Hoaglin 1993).
OUTLIER = 3.5
LEAST_SLOPE, ROUNDING = 0.01, 1e-6
# What each piece of evidence says when it is high: 1 a wrong label, -1 a right one, 0 neither (a hard row). This counts
# as much as FEW flagged rows that lie one sd from the mean.
SPEAKS = {
    "self_confidence": -1.0,
    "label_margin": -1.0,
    "data_map_mean": -1.0,
    "data_map_sd": 0.0,
    "aum": -1.0,
    "forgetting": 0.0,
    "aum_low": 1.0,
    "neighbours": 1.0,
}
FEW = 5


def splits(folds: Array) -> Iterator[tuple[Array, Array]]:
    """Yield (rows to fit on, rows to apply to) along the folds; where there is but one fold, all rows for both."""
    names = np.unique(folds)
    for k in names:
        mine = folds == k
        yield (~mine if len(names) > 1 else mine), mine


def margins(problem: Problem, prediction: Array) -> Array:
    """Return by how much the label beats the best other answer, a column for each label (N E).

    Probabilities: -1..1 (the normalised margin of Northcutt 2021); values: -|error| in sd of the targets.
    """
    p, y = prediction.astype(np.float64), problem.y
    if problem.task.name == "multiclass":
        rows = np.arange(len(y))
        others = p.copy()
        others[rows, y] = -np.inf
        return np.asarray(p[rows, y] - others.max(1))[:, None]
    y = y.reshape(len(y), -1)
    if problem.task.probabilities:
        return np.asarray((2 * p - 1) * (2 * y - 1))
    return -np.abs(p - y) / _spread(y)


def self_confidence(problem: Problem, prediction: Array) -> Array:
    """Return the probability (N,) of the label: mean over labels; for values exp(-|error| / sd)."""
    if problem.task.name == "multiclass":
        return prediction[np.arange(len(problem.y)), problem.y].astype(np.float64)
    won = margins(problem, prediction).mean(1)
    return np.asarray((1 + won) / 2 if problem.task.probabilities else np.exp(won))


def epoch_parts(problem: Problem, epochs: Array) -> dict[str, Array]:
    """Return the evidence in training dynamics (N x (P + 3), see `training.watch`)."""
    *_, spread, margin, forgotten = epochs.T
    confidence = self_confidence(problem, epochs[:, :-3])
    return {"data_map_mean": confidence, "data_map_sd": spread, "aum": margin, "forgetting": forgotten}


def disagreement(problem: Problem, neighbours: Array) -> Array:
    """Return how far each row's label is from those of its neighbours (N k, or N k L); values in sd of the targets."""
    y = problem.y[:, None]
    if problem.task.name in ("ordinal", "regression"):
        away = np.abs(neighbours.mean(1) - problem.y).reshape(len(problem.y), -1)
        return np.asarray((away / _spread(problem.y.reshape(len(problem.y), -1))).mean(1))
    other = neighbours != y
    return np.asarray(other.reshape(len(y), -1).mean(1))


def confident_joint(y: Array, p: Array) -> tuple[Array, Array]:
    """Return the confident joint (C C: given by probable label, in rows) and the flags (N,) off its diagonal.

    A row counts as class j where j is the likeliest class of those above their threshold, the mean self-confidence of
    the class. Rows of the joint are scaled to the classes' sizes, as each has rows that count nowhere.
    """
    classes, rows = p.shape[1], np.arange(len(y))
    size = np.bincount(y, minlength=classes)
    sums = np.bincount(y, p[rows, y], minlength=classes)
    threshold = np.divide(sums, size, out=np.full(classes, np.inf), where=size > 0)
    confident = np.where(p >= threshold - ROUNDING, p, -1.0)
    likely, counts = confident.argmax(1), confident.max(1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[counts], likely[counts]), 1)
    total = joint.sum(1, keepdims=True)
    return np.divide(joint * size[:, None], total, out=np.zeros_like(joint), where=total > 0), counts & (likely != y)


def suspicion(problem: Problem, prediction: Array) -> tuple[Array, float]:
    """Return which labels the predictions (N P) contradict (N,) and how many rows have a wrong label, by estimate.

    Labels: the confident joint (each label of several as a class of its own). Values and grades: residuals beyond 3.5
    robust z, of grades from the median prediction for the grade, as heads shrink towards the middle; that a label is
    the grade next to the right one no prediction can tell.
    """
    y, p = problem.y, prediction.astype(np.float64)
    if problem.task.name in ("ordinal", "regression"):
        flags = _outliers(y, p)
        return flags, float(flags.sum())
    if problem.task.name == "multiclass":
        views = [(y, p)]
    else:
        views = [(one, np.column_stack([1 - q, q])) for one, q in zip(y.reshape(len(y), -1).T, p.T, strict=True)]
    flags, right = np.zeros(len(y), bool), 1.0
    for labels, probability in views:
        joint, off = confident_joint(labels, probability)
        flags |= off
        right *= np.trace(joint) / max(joint.sum(), 1)
    return flags, float((1 - right) * len(y)) if flags.any() else 0.0


def label_wrong(problem: Problem, predictions: Sequence[Array], evidence: dict[str, Array]) -> Array:
    """Return P(label wrong) (N,) from the evidence (N, by name, see `SPEAKS`), cross-fitted along the problem's folds.

    `predictions` (N P each) are contradicted as a mean: the out-of-fold one knows too little of a row and flags too
    much where the model is weak, the one over the epochs half learns the label and flags too little. (Digits, 1,200
    rows, estimates of 120 wrong labels: 129, 98, mean 110; of 300: 319, 256, mean 297; weak model, of 0: 128, 11, 46.)

    Evidence is weighed by how far the flagged rows lie from the mean: a learner with more freedom copies the flags' own
    rule (precision at the true count on noisy digits .58; so .80). Probabilities sum to the estimated number.
    """
    mean, found = np.mean(predictions, 0), np.zeros(len(problem.y))
    parts, prior = np.column_stack(list(evidence.values())), np.array([SPEAKS[name] for name in evidence])
    for rows, mine in splits(problem.folds):
        flags, count = suspicion(problem.part(rows), mean[rows])
        center, spread = parts[rows].mean(0), parts[rows].std(0)
        standard = np.divide(parts - center, spread, out=np.zeros_like(parts), where=spread > 1e-12)
        score = standard @ (standard[rows][flags].sum(0) + FEW * prior)
        score = score / max(float(score[rows].std()), 1e-12)
        slope, middle = platt(score[rows], flags, np.ones(len(flags)))
        # Half a row more: where nothing is flagged the order remains.
        logit, share = slope * score + middle, min((count + 0.5) / len(flags), 1 - 1e-6)
        shift = brentq(lambda by, z, share: expit(z + by).mean() - share, -500, 500, args=(logit[rows], share))
        found[mine] = expit(logit[mine] + shift)
    return found


def belief(wrong: Array) -> Array:
    """Return how much labels count (N,) that are wrong with some probability: suspects, above one half, not at all.

    What is left of many suspects would outweigh the few errors of a good model.
    """
    return np.where(wrong > 0.5, 0.0, 1 - wrong)


def logistic(x: Array, happened: Array, weight: Array, offset: Array | float = 0.0, ridge: float = 1.0) -> Array:
    """Return coefficients (F,) and, last, the intercept of a ridge logistic regression with an offset.

    Targets are smoothed as Platt (1999) does, so that one class alone still has a finite answer.
    """
    yes = float(weight @ happened)
    no = float(weight.sum()) - yes
    target = np.where(happened, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(coefficients: Array) -> tuple[float, Array]:
        z = x @ coefficients[:-1] + coefficients[-1] + offset
        value = -(weight @ (target * log_expit(z) + (1 - target) * log_expit(-z)))
        slope = weight * (expit(z) - target)
        penalty = ridge * coefficients[:-1]
        return float(value + penalty @ coefficients[:-1] / 2), np.r_[x.T @ slope + penalty, slope.sum()]

    fitted = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"gtol": 1e-7})
    return np.asarray(fitted.x)


def platt(z: Array, happened: Array, weight: Array) -> tuple[float, float]:
    """Return slope and intercept that turn a score into a logit (Platt 1999): little data leave the slope at one.

    A score that points the wrong way counts next to nothing, yet keeps rows apart.
    """
    slope, middle = logistic(z[:, None], happened, weight, z)
    if slope > LEAST_SLOPE - 1:
        return float(slope) + 1, float(middle)
    return LEAST_SLOPE, float(logistic(np.zeros((len(z), 0)), happened, weight, LEAST_SLOPE * z)[0])


def _outliers(y: Array, p: Array) -> Array:
    """Return rows (N,) whose prediction (N P) lies apart from those of rows with their grade, or from their values."""
    residual = p - y if y.ndim == 2 else np.empty_like(p)
    for grade in np.unique(y) if y.ndim == 1 else ():
        residual[y == grade] = p[y == grade] - np.median(p[y == grade], 0)
    away = np.abs(residual - np.median(residual, 0))
    return np.asarray((away > OUTLIER * np.maximum(1.4826 * np.median(away, 0), 1e-9 * _spread(p))).any(1))


def _spread(y: Array) -> Array:
    spread = y.std(0)
    return np.where(spread > 0, spread, 1.0)
