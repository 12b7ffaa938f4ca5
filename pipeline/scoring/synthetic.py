"""Rows of rare classes that never were, made in the space of features from rows that may be learnt from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.store.files import Array

# In units of a feature's standard deviation, and how many neighbours of its class a row is joined with.
NOISE, NEIGHBOURS = 0.1, 5


def gauss(x: Array, y: Array, value: float, count: int, seed: int) -> Array:
    """Return rows of a class with normal noise."""
    rng, own = np.random.default_rng([seed, 0]), x[y == value]
    return np.asarray(own[rng.integers(len(own), size=count)] + rng.normal(0, NOISE, (count, x.shape[1])))


def interpolate(x: Array, y: Array, value: float, count: int, seed: int) -> Array:
    """Return points anywhere between two rows of a class."""
    rng, own = np.random.default_rng([seed, 1]), x[y == value]
    one, other = own[rng.integers(len(own), size=(2, count))]
    return np.asarray(one + rng.random((count, 1)) * (other - one))


def smote(x: Array, y: Array, value: float, count: int, seed: int) -> Array:
    """Return points between a row and one of its neighbours of the same class (Chawla 2002)."""
    from imblearn.over_sampling import SMOTE

    own = int((y == value).sum())
    if own == 1:
        return np.repeat(x[y == value], count, axis=0)
    mine = (y == value).astype(int)
    maker = SMOTE(sampling_strategy={1: own + count}, k_neighbors=min(NEIGHBOURS, own - 1), random_state=seed)
    return np.asarray(maker.fit_resample(x, mine)[0][len(x) :])


SYNTHETIC: dict[str, Callable[[Array, Array, float, int, int], Array]] = {
    "gauss": gauss,
    "interpolate": interpolate,
    "smote": smote,
}


def enlarged(kind: str, x: Array, y: Array, weight: Array | None, seed: int) -> tuple[Array, Array, Array | None]:
    """Return rows (N F), their classes and weights, with made ones after them: each class as large as the largest.

    Features are compared and changed in units of their standard deviations; what is unknown is a mean there. A made row
    weighs what the mean row of its class does.
    """
    known = ~np.isnan(x)
    count = np.maximum(known.sum(0), 1)
    center = np.where(known, x, 0).sum(0, dtype=np.float64) / count
    spread = np.sqrt(np.where(known, (x - center) ** 2, 0).sum(0) / count)
    spread = np.where(spread > 0, spread, 1.0)
    z = np.where(known, (x - center) / spread, 0.0)
    values, counts = np.unique(y, return_counts=True)
    parts = [(x, y, weight)]
    for value, lacking in zip(values.tolist(), (counts.max() - counts).tolist(), strict=True):
        if lacking:
            made = SYNTHETIC[kind](z, y, value, lacking, seed) * spread + center
            mean = None if weight is None else np.full(lacking, weight[y == value].mean())
            parts.append((made.astype(x.dtype), np.full(lacking, value, y.dtype), mean))
    xs, ys, ws = zip(*parts, strict=True)
    return np.concatenate(xs), np.concatenate(ys), None if weight is None else np.concatenate(ws)
