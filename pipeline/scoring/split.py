"""Fold assignment. Units that must stay together (groups, copies of an image) are never divided."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from scipy import sparse

from pipeline.masks.rle import nonzero
from pipeline.scoring.even import even
from pipeline.store.errors import UserError
from pipeline.store.files import Array

# Of so many of the rows, those most like test, a holdout that is like test is drawn.
TEST_LIKE = 0.2


def assign(method: str, strata: Any, units: Array, n: int, seed: int, order: Array | None = None) -> Array:
    """Return a fold 0..n-1 for each row.

    `strata` (N S, dense or sparse) is 0/1 with several ones a row for labels; `units` (N,) names what must not be
    divided; `order` (N,) is the time of each row, for `time`. `kfold` and `group` ignore the strata. Rows of one class
    each are left to scikit-learn; labels and whole units to `even`, which is no less even than iterative-stratification
    and StratifiedGroupKFold, and many times faster (`benchmarks/folds.py`); `iterative` is the former.
    """
    unit = compact(units)
    count, rows = int(unit.max(initial=-1)) + 1, len(units)
    if rows < n:
        raise UserError(f"{rows} labelled rows cannot fill {n} folds: lower folds.n")
    if count < n:
        raise UserError(f"{count} groups cannot fill {n} folds: lower folds.n")
    if method == "time":
        assert order is not None
        return blocks(order, unit, n)
    if method in ("kfold", "group"):
        strata = np.ones((rows, 1), bool)
    labels = to_sparse(strata)
    if count < rows:
        if method == "iterative":
            raise UserError('folds.method = "iterative" cannot keep groups or copies whole: use "multilabel"')
        members = sparse.csr_matrix((np.ones(rows), (unit, np.arange(rows))), shape=(count, rows))
        return even(members @ labels, n, seed, np.bincount(unit))[unit]
    if method == "iterative":
        return _iterative(strata, n, seed)
    if method == "multilabel" or (np.diff(labels.indptr) != 1).any():
        return even(labels, n, seed)
    if labels.shape[1] == 1:
        from sklearn.model_selection import KFold

        return _indices(KFold(n, shuffle=True, random_state=seed).split(unit), rows)
    if labels.sum(0).max() < n:
        return even(labels, n, seed)  # every class is rarer than n, which scikit-learn refuses
    return _stratified(labels.indices, n, seed)


def draw_holdout(strata: Any, units: Array, share: float, seed: int, order: Array | None = None) -> Array:
    """Return which rows (N, bool) are held out: whole units, some `share` of rows, stratified; the last in time."""
    part = Fraction(share).limit_denominator(20) or Fraction(share).limit_denominator(100)
    if len(np.unique(units)) < part.denominator:
        raise UserError(
            f"folds.holdout = {share} of {len(units)} rows is not one whole group: raise it, or set it to 0"
        )
    if order is not None:
        return assign("time", strata, units, part.denominator, seed, order) >= part.denominator - part.numerator
    # A seed of its own: the folds of the rows that stay must not depend on the draw.
    return assign("multilabel", strata, units, part.denominator, seed + 2**32) < part.numerator


def draw_test_like(strata: Any, units: Array, share: float, seed: int, like: Array) -> Array:
    """Return which rows (N, bool) are held out: whole units, stratified, out of the rows most `like` (N,) test rows.

    These are a fifth of all, or the share where that is larger; a unit is like test as the mean of its rows is.
    """
    _, of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(-np.bincount(of, like) / sizes, kind="stable")
    enough = int(np.searchsorted(sizes[order].cumsum(), max(share, TEST_LIKE) * len(units))) + 1
    pool = np.flatnonzero(np.isin(of, order[:enough]))
    held = np.zeros(len(units), bool)
    if share >= TEST_LIKE:
        held[pool] = True
        return held
    try:
        held[pool] = draw_holdout(strata[pool], compact(units[pool]), share / TEST_LIKE, seed)
    except UserError:
        told = f"of the {len(pool)} rows most like test it is not one whole group: raise it"
        raise UserError(f"folds.holdout = {share}: {told}, or take holdout_like out") from None
    return held


def blocks(order: Array, unit: Array, n: int) -> Array:
    """Return n blocks of rows that follow each other in time, about equal in size; units and ties are not divided.

    A unit stands where its first row stands. The blocks lie as near to even as the ties allow, none is empty.
    """
    first = np.full(unit.max() + 1, np.inf)
    np.minimum.at(first, unit, order)
    moments, moment = np.unique(first[unit], return_inverse=True)
    if len(moments) < n:
        raise UserError(f"{len(moments)} different times cannot fill {n} folds: lower folds.n")
    until, cuts = np.cumsum(np.bincount(moment)), [0]
    for k in range(1, n):
        low, high = cuts[-1] + 1, len(moments) - (n - k)
        wanted = until[-1] * k / n
        cuts.append(low + int(np.abs(until[low - 1 : high] - wanted).argmin()))
    return np.asarray(np.searchsorted(cuts, moment, side="right") - 1)


def too_near(order: Array, folds: Array, gap: float) -> Array:
    """Return for each row (N, text) the other folds, or the holdout (-2), with a row within `gap` of it in time."""
    codes = np.unique(folds)
    near = np.zeros((len(order), len(codes)), bool)
    for at, code in enumerate(codes.tolist()):
        moments = np.sort(order[folds == code])
        after = np.searchsorted(moments, order - gap)
        near[:, at] = (folds != code) & (after < np.searchsorted(moments, order + gap, side="right"))
    return np.array([" ".join(map(str, codes[row])) for row in near])


def fewest_learnt(folds: Array) -> int:
    """Return how many of the scored rows (their folds: N) the model of the largest fold trains on."""
    return len(folds) - int(np.unique(folds, return_counts=True)[1].max())


def balance(strata: Any, folds: Array, names: list[str]) -> dict[str, list[int]]:
    """Return stratum -> rows in each fold."""
    rows = np.arange(len(folds))
    where = sparse.csr_matrix((np.ones(len(folds)), (rows, folds)), shape=(len(folds), int(folds.max()) + 1))
    counts = (to_sparse(strata).T @ where).toarray().astype(int)
    return {name: row.tolist() for name, row in zip(names, counts, strict=True)}


def compact(units: Array) -> Array:
    """Return the units numbered 0, 1, ... in order, without a sort where they are small whole numbers."""
    if units.dtype.kind != "i" or not len(units) or units.min() < 0 or units.max() > 4 * len(units):
        return np.asarray(np.unique(units, return_inverse=True)[1])
    return np.asarray((np.cumsum(np.bincount(units) > 0) - 1)[units])


def to_sparse(labels: Any) -> Any:
    """Return a 0/1 matrix (N S) as a sparse one of numbers, its columns in order."""
    if sparse.issparse(labels):
        return labels.tocsr()
    labels = np.ascontiguousarray(labels)
    flat = nonzero((labels if labels.dtype == bool else labels != 0).reshape(-1).view(np.uint8))
    row, width = flat // labels.shape[1], labels.shape[1]
    pointers = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(labels)))]).astype(np.int32)
    return sparse.csr_matrix((np.ones(len(flat)), (flat - row * width).astype(np.int32), pointers), labels.shape)


def union(*keys: Array) -> Array:
    """Return a unit index (N,) that joins rows sharing a value of any key, transitively; empty strings join nothing."""
    parent = np.arange(len(keys[0]))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for key in keys:
        first: dict[Any, int] = {}
        for i, value in enumerate(key.tolist()):
            if value != "":
                parent[root(i)] = root(first.setdefault(value, i))
    return np.array([root(i) for i in range(len(parent))])


def _stratified(y: Array, n: int, seed: int) -> Array:
    # A class rarer than n cannot be in every fold; scikit-learn only warns, the checks of `folds` say which.
    import warnings

    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _indices(StratifiedKFold(n, shuffle=True, random_state=seed).split(y, y), len(y))


def _iterative(strata: Any, n: int, seed: int) -> Array:
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    labels = strata.toarray() if sparse.issparse(strata) else strata
    # random_state without shuffle=True is refused by the library.
    return _indices(MultilabelStratifiedKFold(n, shuffle=True, random_state=seed).split(labels, labels), len(labels))


def _indices(splits: Any, rows: int) -> Array:
    folds = np.empty(rows, np.int64)
    for k, (_, held_out) in enumerate(splits):
        folds[held_out] = k
    return folds
