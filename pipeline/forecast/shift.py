"""Adversarial validation: can a classifier tell test rows from scored rows, and which scored rows look like test?

Only rows that a model did not train on are compared with test rows, inside that model, since embeddings of different
models share no axes. The mean AUC over models is tested by permutation inside each. The models share their test rows,
so their AUCs are correlated: by b = n_k / (n_k + N_t) where a direction is given and, as each learns its direction from
the rows too, by no more than the square of b (300 trials with one embedding in all models: .04, .08, .31 where the
square is .10, .07, .41). The permuted means are widened by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.store.files import Array

COMPONENTS = 32
INNER = 5
CLIP = (0.1, 10.0)
# Without a shift shown at this level no row is more like test than others.
SHOWN = 0.05


@dataclass(frozen=True)
class Driver:
    """An image statistic: mean of test less mean of scored rows in sd, and its p-value, allowing for all statistics."""

    name: str
    difference: float
    p: float


@dataclass(frozen=True)
class Shift:
    """How far test rows differ from scored rows.

    `auc` is the mean over models (.5: not at all), `low` and `high` its 95 % interval, `p` its permutation p-value;
    `likeness` (N_s,) is the probability that a scored row is a test row among as many of both, `weight` (N_s,) the
    clipped density ratio of test to scored rows.
    """

    auc: float
    low: float
    high: float
    p: float
    by_model: list[float]
    drivers: list[Driver]
    likeness: Array
    weight: Array


def adversarial(
    embeddings: Sequence[Array] | None,
    folds: Array,
    statistics: Array,
    names: Sequence[str],
    group: Array | None = None,
    seed: int = 0,
    permutations: int = 200,
) -> Shift:
    """Compare the scored rows (N_s) with the test rows (N_t).

    `embeddings`: one N_s+N_t F a fold, in the order of the folds, of one trained run, or None; `folds` (N_s,);
    `statistics` (N_s+N_t S) of the images and their `names`; `group` (N_s+N_t): what is permuted as one.
    """
    rng = np.random.default_rng(seed)
    n, n_test = len(folds), len(statistics) - len(folds)
    is_test = np.arange(n + n_test) >= n
    units = np.arange(n + n_test) if group is None else group
    ratio, observed, permuted, shared = np.ones(n), [], [], []
    for at, k in enumerate(np.unique(folds)):
        mine = folds == k
        if min(mine.sum(), n_test) < 2:
            continue
        rows = np.r_[np.flatnonzero(mine), np.arange(n, n + n_test)]
        x = _features(None if embeddings is None else embeddings[at][rows], statistics[rows])
        labels = _permuted(is_test[rows], units[rows], rng, permutations)
        scores = _held_out_scores(x, labels, _even_parts(units[rows], rng))
        auc = _aucs(labels, scores)
        observed.append(float(auc[0]))
        permuted.append(auc[1:])
        shared.append(1 - len(np.unique(units[n:])) / len(np.unique(units[rows])))
        ratio[mine] = _density_ratio(is_test[rows], scores[:, 0])
    drivers = _drivers(statistics, names, _permuted(is_test, units, rng, permutations))
    if not observed:
        unknown = float("nan")
        return Shift(unknown, unknown, unknown, unknown, [], drivers, np.full(n, 0.5), ratio)
    mean, chance = float(np.mean(observed)), np.mean(permuted, 0)
    wider = np.sqrt(1 + (len(observed) - 1) * np.mean(shared) ** 2)
    chance = chance.mean() + wider * (chance - chance.mean())
    half = 1.96 * float(chance.std(ddof=1))
    p = float((1 + (chance >= mean).sum()) / (1 + permutations))
    low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    return Shift(mean, low, high, p, observed, drivers, ratio / (1 + ratio), ratio.clip(*CLIP))


def likeness(x: Array, statistics: Array, is_test: Array, units: Array, seed: int) -> Array:
    """Return how much rows look like test (N,), a cross-validated score that grows with it.

    Embeddings (N D) of one encoder for all, `statistics` (N S), which rows are of test, units that stay whole.
    """
    inner = _even_parts(units, np.random.default_rng(seed))
    return _held_out_scores(_features(x, statistics), is_test[:, None], inner)[:, 0]


def weighted_cv(score: Callable[[Array], float], weight: Array, group: Array | None) -> tuple[float, float, float]:
    """Return a CV score under importance weights, its standard error, and the effective number of rows.

    `score(weight)` is the competition metric of the OOF rows under row weights (Shimodaira 2000).
    """
    error = standard_error(lambda drawn: score(drawn * weight), len(weight), group)
    return score(weight), error, float(weight.sum() ** 2 / (weight**2).sum())


def most_test_like(shift: Shift, ids: Array, count: int = 20) -> list[tuple[str, float]]:
    """Return the scored rows that look most like test rows, with their likeness."""
    order = np.argsort(-shift.likeness, kind="stable")[:count]
    return [(str(ids[i]), float(shift.likeness[i])) for i in order]


def in_words(shift: Shift, ids: Array) -> list[str]:
    """Return the comparison for a person; `ids` (N_s,) of the scored rows."""
    lines = [
        f"shift: test against scored rows AUC {shift.auc:.3f} (95 % {shift.low:.3f}..{shift.high:.3f}, "
        f"permutation p {shift.p:.3f}, {len(shift.by_model)} models)"
    ]
    told = [f"{d.name} {d.difference:+.2f} sd (p {d.p:.3f})" for d in shift.drivers[:3]]
    lines += ["shift: largest differences of test: " + ", ".join(told)] if told else []
    if shift.p < SHOWN:
        likely = ", ".join(f"{name} ({p:.2f})" for name, p in most_test_like(shift, ids, 5))
        lines.append(f"shift: scored rows most like test: {likely}")
    return lines


def _even_parts(units: Array, rng: np.random.Generator) -> Array:
    """Return an inner fold for each row, units whole, at random."""
    names, of_row = np.unique(units, return_inverse=True)
    return np.asarray((rng.permutation(len(names)) % INNER)[of_row])


def _permuted(y: Array, units: Array, rng: np.random.Generator, permutations: int) -> Array:
    """Return labels (N 1+B), the real ones first; units keep one label, and as many rows are test as units allow."""
    _, of_row, sizes = np.unique(units, return_inverse=True, return_counts=True)
    labels = np.empty((len(y), 1 + permutations), bool)
    labels[:, 0] = y
    for b in range(1, 1 + permutations):
        order = rng.permutation(len(sizes))
        # A unit is test if its middle row still is among the first so many.
        middle = np.cumsum(sizes[order]) - sizes[order] / 2
        chosen = np.empty(len(sizes), bool)
        chosen[order] = middle < y.sum()
        labels[:, b] = chosen[of_row]
    return labels


def _features(embedding: Array | None, statistics: Array) -> Array:
    """Return principal components of the embeddings (at most 32, the first of variance 1) and statistics (N D)."""
    x = _standard(statistics)
    wide = np.zeros((len(x), 0)) if embedding is None else _standard(embedding)
    wide = wide[:, wide.any(0)]
    if not wide.shape[1]:
        return x
    from sklearn.decomposition import PCA

    components = PCA(min(COMPONENTS, *wide.shape), random_state=0).fit_transform(wide)
    return np.column_stack([components / max(float(components.std(0).max()), 1e-12), x])


def _standard(x: Array) -> Array:
    x = x.astype(np.promote_types(x.dtype, np.float32))
    spread = x.std(0)
    return np.asarray((x - x.mean(0)) / np.where(spread > 1e-12, spread, 1.0))


def _held_out_scores(x: Array, labels: Array, inner: Array) -> Array:
    """Return the cross-validated scores (N 1+B) of a ridge classifier for all labellings at once.

    Without an intercept: the mean label of the other inner folds says something of the label of a held-out row.
    """
    scores = np.zeros(labels.shape)
    for k in range(INNER):
        held, rest = inner == k, inner != k
        if held.any() and rest.any():
            y = labels[rest] - labels[rest].mean(0)
            # Not whitened: a tenth of the first component's variance as penalty found class shifts best.
            penalty = 0.1 * len(y) * np.eye(x.shape[1])
            scores[held] = x[held] @ np.linalg.solve(x[rest].T @ x[rest] + penalty, x[rest].T @ y)
    return scores


def _aucs(labels: Array, scores: Array) -> Array:
    """Return the area under the ROC curve of each column; ties count one half."""
    ones, sums = labels.sum(0), np.zeros(labels.shape[1])
    for b in range(len(sums)):
        ordered, mine = np.sort(scores[:, b]), np.sort(scores[labels[:, b], b])
        # Twice the ranks: of the first and of the last of equals.
        sums[b] = (ordered.searchsorted(mine) + 1 + ordered.searchsorted(mine, "right")).sum()
    return np.asarray((sums / 2 - ones * (ones + 1) / 2) / np.maximum(ones * (len(labels) - ones), 1))


def _density_ratio(y: Array, score: Array) -> Array:
    """Return p(test) / p(scored) at the scored rows: logistic in the held-out score, 1 where it tells nothing."""
    from sklearn.linear_model import LogisticRegression

    unit = _standard(score[:, None])
    model = LogisticRegression().fit(unit, y)
    if model.coef_[0, 0] <= 0:
        return np.ones(int((~y).sum()))
    return np.asarray(np.exp(model.decision_function(unit[~y])) * (~y).sum() / y.sum())


def _drivers(statistics: Array, names: Sequence[str], labels: Array) -> list[Driver]:
    """Return the statistics, the most different first; p-values are of the largest difference under permutation."""
    x = _standard(statistics)
    count = labels.sum(0)
    if not len(names) or count.min() < 1 or count.max() >= len(x):
        return []
    # Columns have mean zero: the sum over scored rows is less the sum over test rows.
    sums = np.array([x[test].sum(0) for test in labels.T])
    difference = sums * (1 / count + 1 / (len(x) - count))[:, None]
    largest = np.abs(difference[1:]).max(1)
    p = (1 + (largest[:, None] >= np.abs(difference[0])).sum(0)) / (1 + len(largest))
    order = np.argsort(-np.abs(difference[0]), kind="stable")
    return [Driver(names[s], float(difference[0, s]), float(p[s])) for s in order]
