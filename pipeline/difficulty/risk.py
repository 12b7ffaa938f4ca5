"""What P(error) and the tags are worth on rows that they were not fitted on, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.difficulty.difficulty import TAGS
from pipeline.scoring.bootstrap import REPLICATES, replicate
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

COVERAGES = (0.5, 0.8, 0.9)


def auroc_inside(happened: Array, p: Array, blocks: Array) -> Callable[[Array], float]:
    """Return what gives the AUROC under row weights (N,) over comparisons inside blocks, sorted once.

    Scores of different models do not share a scale.
    """
    sorted_blocks = []
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        rows = rows[np.argsort(-p[rows], kind="stable")]
        # Where each distinct score ends.
        sorted_blocks.append((rows, happened[rows], np.r_[np.flatnonzero(np.diff(p[rows])), len(rows) - 1]))

    def area(weight: Array) -> float:
        total = won = 0.0
        for rows, yes, last in sorted_blocks:
            mine = weight[rows]
            positive, negative = np.cumsum(mine * yes)[last], np.cumsum(mine * ~yes)[last]
            total += float(positive[-1] * negative[-1])
            won += float((np.diff(negative, prepend=0.0) * (positive + np.r_[0.0, positive[:-1]])).sum()) / 2
        return won / total if total else float("nan")

    return area


def risk(problem: Problem, p: Array, wrong: Array, believed: Array, tags: Array) -> dict[str, Any]:
    """Return what P(error) and the tags are worth on out-of-fold rows, each with a 95 % interval (by group).

    `score` is the AUROC inside folds; like the errors under `coverage` (of the least doubtful share of the rows) and
    `tags` it counts each row as much as its label is believed. `given` is the same against all labels as they are.
    """
    ks = np.unique(problem.folds).tolist()
    order = np.argsort(p, kind="stable")
    sets = {f"{c:g}": np.isin(np.arange(len(p)), order[: round(c * len(p))]) for c in COVERAGES}
    sets |= {tag: tags == tag for tag in TAGS}

    inside_folds = auroc_inside(wrong, p, problem.folds)

    def area(weight: Array, among: Array | float = 1.0) -> float:
        return inside_folds(weight * among)

    def error(inside: Array, weight: Array) -> float:
        rows = weight * believed * inside
        return float(rows @ wrong / rows.sum()) if rows.sum() > 0 else float("nan")

    scores: list[Callable[[Array], float]] = [
        partial(area, among=believed),
        area,
        *(partial(error, inside) for inside in sets.values()),
    ]
    now = [score(np.ones(len(p))) for score in scores]
    drawn = replicate(scores, len(p), problem.group)
    per_fold = [area((problem.folds == k).astype(np.float64), believed) for k in ks]
    report = {"metric": "auroc p_error", **_interval(now[0], drawn[:, 0]), "n": len(p), "per_fold": per_fold}
    report |= {"fold_sd": float(np.std(per_fold, ddof=1)), "given": _interval(now[1], drawn[:, 1])}
    found = {}
    for j, (name, inside) in enumerate(sets.items(), 2):
        interval = _interval(now[j], drawn[:, j], float(believed[inside].sum()))
        given = float(wrong[inside].mean()) if inside.any() else float("nan")
        found[name] = interval | {"given": given, "share": float(inside.mean()), "n": int(inside.sum())}
    names = list(found)
    return report | {"coverage": {c: found[c] for c in names[:3]}, "tags": {tag: found[tag] for tag in names[3:]}}


def _interval(value: float, drawn: Array, rows: float | None = None) -> dict[str, float]:
    """Return a score with its standard error and 95 % interval; a share of `rows` at least as wide as Wilson's (1927).

    No error among n rows has no spread over resamples, yet is no proof that there is none.
    """
    known = drawn[np.isfinite(drawn)]
    if len(known) <= REPLICATES / 2:
        return {"score": value, "se": float("nan"), "low": float("nan"), "high": float("nan")}
    low, high = np.quantile(known, [0.025, 0.975])
    if rows:
        z = 1.96**2 / rows
        middle, half = (value + z / 2) / (1 + z), np.sqrt(z * value * (1 - value) + z**2 / 4) / (1 + z)
        low, high = min(low, middle - half), max(high, middle + half)
    return {"score": value, "se": float(known.std(ddof=1)), "low": float(low), "high": float(high)}
