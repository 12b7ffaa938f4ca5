"""Will the decision be wrong? P(error) of train and test rows from what is known without labels; tags from its risk.

Easy is the largest set of rows whose error stays under a bound, hard the smallest that holds a share of all errors.
Labels enter only as errors of out-of-fold decisions, each counted as much as its label is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, logit

from pipeline.scoring.bootstrap import REPLICATES, replicate
from pipeline.scoring.cuts import Problem
from pipeline.scoring.labels import logistic, platt, splits
from pipeline.scoring.metrics import binary_roc_auc
from pipeline.store.files import Array
from pipeline.tasks import Task

EASY, AMBIGUOUS, HARD, SUSPECT = "easy", "ambiguous", "hard", "suspect"
TINY = 1e-6
# Fewer errors (or right rows) than this and no tree is grown.
ENOUGH = 20
Scorer = Callable[[Array], Array]


def stated_doubt(task: Task, prediction: Array) -> Array:
    """Return the logit (N,) of the chance of being wrong that a prediction itself states; 0 where it states none."""
    p = prediction.astype(np.float64)
    if not task.probabilities:
        return np.zeros(len(p))
    sure = p.max(1) if task.name == "multiclass" else np.maximum(p, 1 - p).prod(1)
    return np.asarray(logit(np.clip(1 - sure, TINY, 1 - TINY)))


def wrong_rows(problem: Problem, prediction: Array, labels: Array) -> Array:
    """Return which rows (N,) the decision has wrong: any label of several; a value by over one sd of the errors.

    The sd for a fold is that of the other folds' errors, in sd a target.
    """
    if problem.task.name != "regression":
        other = labels != problem.y
        return np.asarray(other if other.ndim == 1 else other.any(1))
    squared = (prediction.astype(np.float64) - problem.y) ** 2
    found = np.zeros(len(squared), bool)
    for rows, mine in splits(problem.folds):
        found[mine] = (squared[mine] / np.maximum(squared[rows].mean(0), 1e-300)).mean(1) > 1
    return found


def corrected_doubt(x: Array, wrong: Array, weight: Array) -> Scorer:
    """Fit the stated doubt (first column) plus a ridge logistic correction; without errors it is left as it was."""
    center, spread = x.mean(0), np.where(x.std(0) > 1e-12, x.std(0), np.inf)
    fitted = logistic((x - center) / spread, wrong, weight, x[:, 0])
    return lambda new: np.asarray(new[:, 0] + ((new - center) / spread) @ fitted[:-1] + fitted[-1])


def trees(x: Array, wrong: Array, weight: Array) -> Scorer:
    """Fit small boosted trees; return a scorer of logits."""
    if min(weight @ wrong, weight @ ~wrong) < ENOUGH:
        return lambda new: np.zeros(len(new))
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, min_samples_leaf=20, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    model.fit(x, wrong, sample_weight=weight)
    return lambda new: np.asarray(model.decision_function(new))


LEARNERS = {"logistic": corrected_doubt, "trees": trees}


@dataclass(frozen=True)
class ErrorModel:
    """P(error) of new rows; of its own rows (N,), each by a learner and a choice that did not see its fold; cut-offs."""

    learner: str
    predict: Scorer
    own: Array


def fit_errors(x: Array, wrong: Array, weight: Array, folds: Array, learners: Sequence[str] = ("logistic",)) -> ErrorModel:
    """Fit P(error) on features (N F, first the stated doubt): the learner of the least log loss on rows it never saw.

    It is calibrated on those rows too (Platt).
    """
    best, lowest = None, np.inf
    for name in learners:
        z = np.zeros(len(x))
        for rows, mine in splits(folds):
            z[mine] = LEARNERS[name](x[rows], wrong[rows], weight[rows])(x[mine])
        slope, middle = platt(z, wrong, weight)
        z = slope * z + middle
        loss = -float(weight @ np.where(wrong, log_expit(z), log_expit(-z)))
        if loss < lowest:
            best, lowest = (name, slope, middle, expit(z)), loss
    assert best is not None
    name, slope, middle, own = best
    final = LEARNERS[name](x, wrong, weight)
    return ErrorModel(name, lambda new: np.asarray(expit(slope * final(new) + middle)), own)
