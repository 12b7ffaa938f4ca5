"""Search by features: which rows of a gallery are nearest to a query, and whether they are of its class."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.features import in_model, unit
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# Components with less of the largest one's variance are noise of rounding: whitening would make them as large.
LEAST = 1e-9


def search(
    query: Array, gallery: Array, y: Array, classes: Array, k: int, pca: int = 0, whiten: bool = False
) -> tuple[Array, Array]:
    """Return the average precision at k of each query, and whether its nearest row is of its class (N, N).

    Features Q F and G F of one model, classes `y` (Q,) of queries and `classes` (G,) of the gallery; nearest by cosine.
    A query whose class the gallery does not have is NaN. AP@k is the sum of the precisions at the places of like rows,
    over the largest number of those that k places can hold.
    """
    if pca:
        query, gallery = project(query, gallery, pca, whiten)
    found = in_model(query, gallery, k, classes)[1]
    assert found is not None
    like = found == y[:, None]
    there = (classes[None, :] == y[:, None]).sum(1)
    precision = like.cumsum(1) / np.arange(1, like.shape[1] + 1)
    best = np.where(there > 0, np.minimum(there, k), np.nan)
    return (precision * like).sum(1) / best, np.where(there > 0, like[:, 0], np.nan)


def project(query: Array, gallery: Array, pca: int, whiten: bool) -> tuple[Array, Array]:
    """Return the first principal components of the gallery's unit vectors, of queries and gallery (Jegou 2012).

    `whiten` gives each the same variance. Both are projected by what the gallery alone says.
    """
    sides = [unit(x.astype(np.float64)) for x in (query, gallery)]
    center = sides[1].mean(0)
    values, axes = np.linalg.eigh(np.cov(sides[1], rowvar=False).reshape(len(center), -1))
    values, axes = values[::-1][:pca], axes[:, ::-1][:, :pca]
    if whiten:
        axes = axes * np.where(values > LEAST * values[0], 1 / np.sqrt(np.maximum(values, 1e-300)), 0.0)
    first, second = ((x - center) @ axes for x in sides)
    return first, second


def in_report(problem: Problem, precision: Array, first: Array, k: int) -> dict[str, Any]:
    """Return mean average precision at k and the share of right nearest rows, with standard errors (by group).

    Both (M N) are of M models a row, NaN where one does not answer for it; a row that none can is left out.
    """
    report: dict[str, Any] = {"k": k}
    for name, each in (("map", precision), ("top1", first)):
        rows = np.flatnonzero(np.isfinite(each).any(0))
        value, part = np.nanmean(each[:, rows], 0), problem.part(rows)
        weight = np.ones(len(rows)) if part.weight is None else part.weight

        def mean(draws: Array, value: Array = value, weight: Array = weight) -> float:
            return float(np.average(value, weights=draws * weight)) if (draws * weight).any() else float("nan")

        report |= {name: mean(np.ones(len(rows))), f"{name}_se": standard_error(mean, len(rows), part.group)}
        report["n"] = len(rows)
    return report
