"""Other predictions that a run might have made, each again a prediction whose untuned decision yields its labels.

All predictions here (N P) are decided by the untuned cuts; `recut` carries those of tuned cuts over. A rule that speaks
of labels is expressed by the least change of the prediction that leads to them (`settle`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.scoring.classification import EPS
from pipeline.scoring.cuts import fit
from pipeline.scoring.features import Features
from pipeline.scoring.problem import Problem
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.tasks import Task

TAUS, NEAR_TIE = (0.25, 0.5, 1.0), 0.3
# How much of a prediction the neighbours' vote may be.
VOTES = (0.25, 0.5)


@dataclass(frozen=True)
class View:
    """Rows as the rules see them, label-free: the run's prediction (N P) and as it lay on the shelf (`raw`), those of
    the trained runs below it (M N P), features, and the block of each row ("" for none) for a capacity;
    `votes` (N P) of nearest training rows, where they are asked, NaN where these know nothing.
    """

    run: Array
    raw: Array
    leaves: Array
    features: Features
    blocks: Array
    votes: Array | None = None

    def of(self, rows: Array) -> View:
        """Return some of the rows."""
        features = (self.features[0][rows], self.features[1])
        return replace(
            self,
            run=self.run[rows],
            raw=self.raw[rows],
            leaves=self.leaves[:, rows],
            features=features,
            blocks=self.blocks[rows],
            votes=None if self.votes is None else self.votes[rows],
        )


@dataclass(frozen=True)
class Facts:
    """What candidates need to know of labels: prior of the classes, factors to their shares, cuts by their method."""

    prior: Array
    factors: Array
    cuts: dict[str, Array]

    @classmethod
    def of(cls, problem: Problem, rows: Array, run: Array, raw: Array) -> Facts:
        """Fit on the rows of a mask; a class that is not there counts as one row."""
        tuned = problem.task.cuts and problem.metric.label
        cuts = {method: fit(problem, method, rows, raw)[0] for method in ("fixed", "ratio", "optimal") if tuned}
        if problem.task.name != "multiclass":
            return cls(np.ones(0), np.ones(0), cuts)
        labels = problem.hard[rows]
        counts = np.maximum(np.bincount(labels, minlength=problem.classes), 1)
        return cls(counts / counts.sum(), class_factors(run[rows], labels), cuts)


def candidates(problem: Problem, view: View, facts: Facts) -> dict[str, Array]:
    """Return the candidates by name, the run itself ("plain") first."""
    task, run = problem.task, view.run
    found = {"plain": run, **{f"leaf {m}": leaf for m, leaf in enumerate(view.leaves)}}
    if len(view.leaves) > 1:
        found["mean"] = view.leaves.mean(0)
    found |= {f"cuts {method}": recut(task, view.raw, cuts) for method, cuts in facts.cuts.items()}
    if task.name == "multiclass":
        found |= {f"prior {tau:g}": scale(run, facts.prior**-tau) for tau in TAUS}
    if view.votes is not None:
        found |= {f"neighbours {share:g}": towards(run, view.votes, share) for share in VOTES}
    if problem.metric.label and task.name == "multiclass":
        found["minority"] = minority(run, facts.prior).astype(np.float32)
    if problem.metric.label and task.name != "regression":
        found["runner-up"] = settle(task, run, runner_up(task, run, problem.classes), problem.classes)
    return found


def towards(p: Array, votes: Array, share: float) -> Array:
    """Return predictions (N P, float32) moved a share of the way to votes, where there are any."""
    return np.asarray(np.where(np.isnan(votes), p, (1 - share) * p + share * votes), np.float32)


def sureness(task: Task, p: Array, classes: int) -> Array:
    """Return how sure an untuned decision is (N,): probability of the top class, distance to the cut; 0 for values."""
    if task.name == "multiclass":
        return np.asarray(p.max(1))
    if task.name == "regression":
        return np.zeros(len(p))
    cuts = task.default_cuts(classes)
    return np.asarray(np.abs(p - cuts).min(1) if task.name == "ordinal" else np.abs(p - cuts).mean(1))


def settle(task: Task, p: Array, labels: Array, classes: int) -> Array:
    """Return the least change of a prediction (N P, float32) whose untuned decision is `labels`.

    Multiclass: the winner's probability changes places with that of the label; else the value moves just over the cut.
    """
    p = p.astype(np.float32)
    if task.name == "multiclass":
        rows, top = np.arange(len(p)), p.argmax(1)
        p[rows, top], p[rows, labels] = p[rows, labels], p[rows, top]
        tied = p.argmax(1) != labels
        p[tied, labels[tied]] = np.nextafter(p[tied].max(1), np.float32(2))
        return p
    if task.name == "ordinal":
        low = np.where(labels > 0, labels - 0.5, -np.inf).astype(np.float32)
        high = np.where(labels < classes - 1, labels + 0.5, np.inf).astype(np.float32)
        return np.clip(p, np.nextafter(low, np.float32(np.inf))[:, None], high[:, None])
    half = np.float32(0.5)
    labels = labels.reshape(p.shape)
    return np.where(labels == 1, np.maximum(p, np.nextafter(half, np.float32(1))), np.minimum(p, half))


def recut(task: Task, p: Array, cuts: Array) -> Array:
    """Carry a prediction to where the untuned cuts decide as `cuts` do: piecewise linear, in order, float32."""
    labels = task.decide(p, cuts)
    default = task.default_cuts(len(cuts) + 1) if task.name == "ordinal" else np.full(len(cuts), 0.5)
    if np.array_equal(cuts, default):
        return p
    if task.name == "ordinal":
        ends = np.array([1e6])
        moved = np.interp(p, np.r_[cuts[0] - ends, cuts, cuts[-1] + ends], np.r_[-ends, default, default[-1] + ends])
    else:
        low, high = np.where(cuts > 0, 0, cuts - 1), np.where(cuts < 1, 1, cuts + 1)
        columns = [np.interp(p[:, c], [low[c], cut, high[c]], [0, 0.5, 1]) for c, cut in enumerate(cuts)]
        moved = np.column_stack(columns)
    return settle(task, moved, labels, len(cuts) + 1)


def minority(p: Array, size: Array, limit: float = NEAR_TIE) -> Array:
    """Give near-tied rows (top two within `limit`) the rarer class of the two, by exchanging their probabilities."""
    two = np.argsort(-p, axis=1, kind="stable")[:, :2]
    top = np.take_along_axis(p, two, 1)
    swap = (top[:, 0] - top[:, 1] < limit) & (size[two[:, 1]] < size[two[:, 0]])
    out = p.copy()
    np.put_along_axis(out, two, np.where(swap[:, None], top[:, ::-1], top), 1)
    return out


def runner_up(task: Task, p: Array, classes: int) -> Array:
    """Return the second likeliest labels: second class, other side of the nearest cut, least sure label flipped."""
    if task.name == "multiclass":
        return np.asarray(np.argsort(-p, axis=1, kind="stable")[:, 1])
    labels = task.decide(p, task.default_cuts(classes))
    if task.name == "ordinal":
        nearest = np.clip(np.rint(p[:, 0] - 0.5), 0, classes - 2).astype(np.int64)
        return np.asarray(2 * nearest + 1 - labels)
    flipped = np.abs(p - 0.5).argmin(1)[:, None] == np.arange(p.shape[1])
    return np.asarray(np.where(flipped.reshape(labels.shape), 1 - labels, labels))


def class_factors(p: Array, y: Array, steps: int = 100) -> Array:
    """Return a factor a class (C,) on probabilities (N C) that leaves (nearly) as many rows decided for it as it has.

    Fitted on labelled rows and applied to others, like the cuts of `ratio`: matching the shares of a held-out fold
    itself would take the stratification of the folds for knowledge.
    """
    actual = np.bincount(y, minlength=p.shape[1])
    factor = best = np.ones(p.shape[1])
    nearest = np.inf
    for step in range(steps):
        now = np.bincount((p * factor).argmax(1), minlength=p.shape[1])
        miss = float(np.abs(now - actual).sum())
        if miss < nearest:
            best, nearest = factor, miss
        factor = factor * ((actual + 1) / (now + 1)) ** (0.5 / (1 + step / 10))
    return best


def scale(p: Array, factor: Array) -> Array:
    """Return probabilities (N C, float32) times a factor a class, normalised."""
    scaled = p * factor
    return np.asarray(scaled / scaled.sum(1, keepdims=True), np.float32)


def assign(p: Array, blocks: Array, each: int) -> Array:
    """Decide (N,) with at most `each` rows of a class in a block: the likeliest assignment (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    cost, labels = -np.log(np.clip(p.astype(np.float64), EPS, 1)), p.argmax(1)
    for block in np.unique(blocks[blocks != ""]):
        rows = np.flatnonzero(blocks == block)
        if len(rows) > each * p.shape[1]:
            raise UserError(
                f"capacity: group {str(block)!r} has {len(rows)} rows, {p.shape[1]} classes at {each} each hold "
                f"{each * p.shape[1]}: raise capacity.each or mend capacity.pattern"
            )
        chosen, slot = linear_sum_assignment(np.repeat(cost[rows], each, axis=1))
        labels[rows[chosen]] = slot // each
    return np.asarray(labels)
