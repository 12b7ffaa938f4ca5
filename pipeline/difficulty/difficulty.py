"""Will the decision be wrong? P(error) of train and test rows from what is known without labels; tags from its risk.

Easy is the largest set of rows whose error stays under a bound, hard the smallest that holds a share of all errors.
Labels enter only as errors of out-of-fold decisions, each counted as much as its label is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logit

from pipeline.difficulty.labels import logistic, platt, splits
from pipeline.scoring.problem import Problem
from pipeline.scoring.stack import one_thread, some
from pipeline.store.files import Array
from pipeline.tasks import Task

TAGS = EASY, AMBIGUOUS, HARD, SUSPECT = "easy", "ambiguous", "hard", "suspect"
TINY = 1e-6
# Of 1 to 1,000 the best on digits, at 30 to 270 errors (AUROC for test errors at 200 rows .889, with 1 .882).
RIDGE = 30.0
# Fewer errors (or right rows) than this and no tree is grown: on 1,200 rows with 40 errors trees never helped.
ENOUGH = 100
# Into how many bins boosted trees divide a feature.
BINS = 255
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

    The sd for a fold is that of the other folds' errors by their median, which wrong labels do not stretch.
    """
    if problem.task.name != "regression":
        other = labels != problem.y
        return np.asarray(other if other.ndim == 1 else other.any(1))
    error = np.abs(prediction.astype(np.float64) - problem.y)
    found = np.zeros(len(error), bool)
    for rows, mine in splits(problem.folds):
        spread = 1.4826 * np.median(error[rows], 0)
        found[mine] = ((error[mine] / np.where(spread > 0, spread, np.inf)) ** 2).mean(1) > 1
    return found


def corrected_doubt(x: Array, wrong: Array, weight: Array) -> Scorer:
    """Fit a ridge logistic correction of the stated doubt (first column); return a scorer of logits but for a constant.

    The intercept of a learner that never saw a fold is low where the fold's errors are many: it stays out of the score.
    """
    center, spread = x.mean(0), np.where(x.std(0) > 1e-12, x.std(0), np.inf)
    fitted = logistic((x - center) / spread, wrong, weight, x[:, 0], RIDGE)
    return lambda new: np.asarray(new[:, 0] + ((new - center) / spread) @ fitted[:-1])


def binning(x: Array, weight: Array) -> Scorer:
    """Return what puts values (N F) into the weighted quantiles that boosted trees would divide them into anyway.

    scikit-learn sorts a column anew for each of its quantiles, which took most of the time of a fit.
    """
    edges = [_edges(column, weight) for column in x.T]

    def put(new: Array) -> Array:
        pairs = zip(edges, new.T, strict=True)
        return np.column_stack([c if e is None else np.searchsorted(e, c).astype(np.float64) for e, c in pairs])

    return put


def _edges(column: Array, weight: Array) -> Array | None:
    """Return the upper ends of bins of equal weight (N,), None where there are no more values than bins."""
    counts = weight != 0
    order = np.argsort(column[counts], kind="stable")
    values, total = column[counts][order], np.cumsum(weight[counts][order])
    if np.count_nonzero(np.diff(values)) < BINS:
        return None
    level = np.linspace(0, 100, BINS + 1)[1:-1] / 100 * total[-1]
    at = np.searchsorted(total, level).clip(max=len(values) - 1)
    # A quantile that falls between two values is their mean.
    above = np.where(total[at] - level > np.finfo(np.float64).eps, at, (at + 1).clip(max=len(values) - 1))
    return np.unique((values[at] + values[above]) / 2)


def trees(x: Array, wrong: Array, weight: Array) -> Scorer:
    """Fit small boosted trees; return a scorer of logits but for a constant."""
    if min(weight @ wrong, weight @ ~wrong) < ENOUGH:
        return lambda new: np.zeros(len(new))
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = some(len(x))
    x, wrong, weight = x[rows], wrong[rows], weight[rows]
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, min_samples_leaf=20, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    put = binning(x, weight)
    with one_thread():
        model.fit(put(x), wrong, sample_weight=weight)
    middle = float(np.average(model.decision_function(put(x)), weights=weight))
    return lambda new: np.asarray(model.decision_function(put(new))) - middle


LEARNERS = {"logistic": corrected_doubt, "trees": trees}


@dataclass(frozen=True)
class ErrorModel:
    """P(error) of new rows, and of its own rows (N,), each by a learner that did not see the row's fold."""

    learner: str
    predict: Scorer
    own: Array


def fit_errors(
    x: Array, wrong: Array, weight: Array, folds: Array, learners: Sequence[str] = ("logistic",)
) -> ErrorModel:
    """Fit P(error) on features (N F, first the stated doubt): the learner of least log loss on rows it never saw.

    On those rows it is calibrated too (Platt).
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


@dataclass(frozen=True)
class Cuts:
    """P(error) up to which a row is easy, and from which it is hard."""

    easy: float
    hard: float

    def tags(self, p: Array) -> Array:
        """Return the tag of each row; hard wins over easy."""
        return np.where(p >= self.hard, HARD, np.where(p <= self.easy, EASY, AMBIGUOUS))


def cut_offs(p: Array, wrong: Array, weight: Array, easy_error: float, hard_share: float) -> Cuts:
    """Return the cut-offs of the largest set with an error under `easy_error` and the smallest with a share of errors.

    Rows of equal p stay together.
    """
    order = np.argsort(p, kind="stable")
    p, errors, rows = p[order], np.cumsum((weight * wrong)[order]), np.cumsum(weight[order])
    last = np.r_[np.flatnonzero(np.diff(p)), len(p) - 1]
    safe = last[errors[last] < easy_error * rows[last]]
    easy = float(p[safe[-1]]) if len(safe) else -np.inf
    if errors[-1] <= 0:
        return Cuts(easy, np.inf)
    above = errors[-1] - np.r_[0.0, errors[last[:-1]]]  # errors among rows of this p and beyond
    return Cuts(easy, float(p[last[np.flatnonzero(above >= hard_share * errors[-1] - 1e-12)[-1]]]))


@dataclass(frozen=True)
class Difficulty:
    """Cross-fitted P(error) and tags (N,) of out-of-fold rows; cut-offs and learner of each fold; what is deployed."""

    p_error: Array
    tags: Array
    by_fold: dict[int, Cuts]
    learners: dict[int, str]
    model: ErrorModel
    cuts: Cuts


def crossfit(
    x: Array,
    wrong: Array,
    folds: Array,
    believe: Callable[[Array], Array],
    easy_error: float,
    hard_share: float,
    learners: Sequence[str] = tuple(LEARNERS),
) -> Difficulty:
    """Fit P(error) and cut-offs of each fold without it, and the deployed ones on all rows.

    `believe(rows)` returns how much the labels of some rows (a mask) are believed, from those rows alone.
    """
    everything = np.ones(len(x), bool)

    def fit(rows: Array) -> tuple[ErrorModel, Cuts]:
        weight = believe(rows)
        model = fit_errors(x[rows], wrong[rows], weight, folds[rows], learners)
        return model, cut_offs(model.own, wrong[rows], weight, easy_error, hard_share)

    p, tags = np.zeros(len(x)), np.full(len(x), AMBIGUOUS, dtype="<U9")
    by_fold, chosen = {}, {}
    for rows, mine in splits(folds):
        k = int(folds[mine][0])
        model, by_fold[k] = fit(rows)
        chosen[k], p[mine] = model.learner, model.predict(x[mine])
        tags[mine] = by_fold[k].tags(p[mine])
    return Difficulty(p, tags, by_fold, chosen, *fit(everything))


def as_ranked(p: Array, reference: Array) -> Array:
    """Return `p` (N,) carried to the distribution of `reference` (R,), rank by rank."""
    ranks = np.searchsorted(np.sort(p), p, side="right") / len(p)
    return np.asarray(np.quantile(reference, ranks, method="inverted_cdf"))


def suggest(problem: Problem, prediction: Array) -> Array:
    """Return the targets (N P) that a prediction suggests by untuned cuts, as prediction columns."""
    labels = problem.task.decide(prediction, problem.task.default_cuts(problem.classes))
    if problem.task.name == "multiclass":
        return np.eye(problem.classes)[labels]
    return labels.reshape(len(labels), -1).astype(np.float64)
