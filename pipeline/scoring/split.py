"""Fold assignment. Units that must stay together (groups, identical images) are split by our own greedy splitter."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.store.errors import UserError
from pipeline.store.files import Array


def assign(method: str, strata: Array, units: Array, n: int, seed: int) -> Array:
    """Return a fold 0..n-1 for each row.

    `strata` (N S) is 0/1 with several ones a row for labels; `units` (N,) names what must not be divided.
    `kfold` and `group` ignore the strata; `group` and `stratified-group` and every method with a repeated unit keep
    units whole; `multilabel`, and strata with several ones a row, is iterative stratification (Sechidis 2011).
    """
    names, unit = np.unique(units, return_inverse=True)
    if len(units) < n:
        raise UserError(f"{len(units)} labelled rows cannot fill {n} folds: lower folds.n")
    if len(names) < n:
        raise UserError(f"{len(names)} groups cannot fill {n} folds: lower folds.n")
    if method in ("kfold", "group"):
        strata = np.ones((len(units), 1), np.int64)
    if len(names) < len(units):
        return assign_units(strata, unit, n, seed)[unit]
    if method == "multilabel" or strata.sum(1).max() > 1:
        return _iterative(strata, n, seed)
    if strata.shape[1] == 1:
        from sklearn.model_selection import KFold

        return _indices(KFold(n, shuffle=True, random_state=seed).split(unit), len(unit))
    return _stratified(strata.argmax(1), n, seed)


def assign_units(strata: Array, unit: Array, n: int, seed: int) -> Array:
    """Assign whole units to folds, the most lopsided first, each where label counts stay closest to even.

    `unit` (N,) is the unit index of each row. Return the fold of each unit. Cost: units x folds x strata.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((unit.max() + 1, strata.shape[1] + 1))
    np.add.at(counts, unit, np.column_stack([np.ones(len(unit)), strata]))
    total = counts.sum(0)
    # Rare labels weigh as much as common ones: distance is counted in shares of each label's total.
    shares = counts / np.maximum(total, 1)
    order = np.lexsort((rng.random(len(shares)), -shares.max(1)))
    filled, folds = np.zeros((n, shares.shape[1])), np.empty(len(shares), np.int64)
    for u in order:
        # Sum over folds of (filled + share)^2 grows by 2 filled . share for the fold that takes the unit.
        cost = filled @ shares[u]
        ties = np.flatnonzero(cost <= cost.min() + 1e-12)
        folds[u] = ties[int(np.argmin(filled[ties, 0]))]
        filled[folds[u]] += shares[u]
    return folds


def balance(strata: Array, folds: Array, names: list[str]) -> dict[str, list[int]]:
    """Return stratum -> rows in each fold."""
    return {name: np.bincount(folds, strata[:, s]).astype(int).tolist() for s, name in enumerate(names)}


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
    counts = np.bincount(y)
    if counts[counts > 0].max() < n:
        raise UserError(f"every class has fewer than {n} rows: lower folds.n")
    # A class rarer than n cannot be in every fold; scikit-learn only warns, the checks of `folds` say which.
    import warnings

    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _indices(StratifiedKFold(n, shuffle=True, random_state=seed).split(y, y), len(y))


def _iterative(strata: Array, n: int, seed: int) -> Array:
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    # random_state without shuffle=True is refused by the library.
    return _indices(MultilabelStratifiedKFold(n, shuffle=True, random_state=seed).split(strata, strata), len(strata))


def _indices(splits: Any, rows: int) -> Array:
    folds = np.empty(rows, np.int64)
    for k, (_, held_out) in enumerate(splits):
        folds[held_out] = k
    return folds
