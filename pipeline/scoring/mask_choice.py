"""The choice of thresholds, areas and gates of masks: cross-fitted, and kept untuned unless the gate is passed.

A choice is made on the statistics of `mask_variants.measure` and scored by the competition's metric. `auto` keeps the
untuned decision unless the cross-fitted gain over it passes the gate of `bootstrap`; of what a fold gets, only the
other folds are asked. Where a fold may not see the others' rows as they are scored (a blend, whose weights for them
were fitted on its labels too), it is told of them apart: mixed by weights that never saw it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.masks.decide import Decision
from pipeline.scoring.bootstrap import adopt, gate, replicate
from pipeline.scoring.mask_variants import Setting
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import score_oof
from pipeline.store.files import Array

METHODS = ("fixed", "optimal", "auto")
# Returns the statistics (N G k) of further settings, as a fold sees the rows (None: as they are scored).
More = Callable[[list[Setting], int | None], Array]


@dataclass(frozen=True)
class Choice:
    """Settings of each fold, chosen without it, and deployed ones, by which method; statistics (N k) that they give.

    `stats` are cross-fitted, `optimal` those of the best setting of each fold whether it passed the gate or not,
    `fixed` untuned, `in_sample` those of the deployed setting.
    """

    by_fold: dict[int, Setting]
    methods: dict[int, str]
    deployed: Setting
    method: str
    stats: Array
    optimal: Array
    fixed: Array
    in_sample: Array


def choose(
    problem: Problem,
    grid: Sequence[Setting],
    stats: Array,
    method: str = "auto",
    more: More | None = None,
    apart: Mapping[int, Array] | None = None,
) -> Choice:
    """Choose a setting for each fold without it, and the deployed one, by statistics (N G k) of a grid.

    `fixed` needs those of the first alone. `more` is what several classes need: each is chosen by itself. `apart` are
    the statistics (N G k) by which folds choose that may not see the rows as they are scored; its own they all see so.
    """
    apart = apart or {}
    if method == "fixed":
        grid, stats, apart = grid[:1], stats[:, :1], {}
    folds, ks = problem.folds, np.unique(problem.folds).tolist()
    alike = [k for k in ks if k not in apart]
    whole = _View.of(problem, grid, stats, None, alike, more)
    views = dict.fromkeys(alike, whole)
    views |= {k: _View.of(problem, grid, each, k, [k], more) for k, each in apart.items()}
    best = {k: views[k].best[(k,)] for k in ks}

    def held(of: Mapping[int, Setting]) -> Array:
        """Return the statistics (N k) of the rows of each fold by its setting."""
        found = np.array(stats[:, 0])
        for k in ks:
            found[folds == k] = views[k].given(of[k])[folds == k]
        return found

    optimal, methods, last = held(best), dict.fromkeys(ks, method), method
    if method == "auto":
        methods = {k: views[k].settle(k) for k in ks}
        last = _adopt(problem, stats[:, 0], optimal) if len(ks) > 1 else "fixed"
    by_fold = {k: best[k] if methods[k] == "optimal" else grid[0] for k in ks}
    deployed = whole.best[()] if last == "optimal" else grid[0]
    return Choice(by_fold, methods, deployed, last, held(by_fold), optimal, stats[:, 0], whole.given(deployed))


@dataclass(frozen=True)
class _View:
    """How some folds see the rows: statistics (N G k) of settings, the best ones without one fold, or two."""

    problem: Problem
    grid: list[Setting]
    stats: Array
    best: dict[tuple[int, ...], Setting]

    @classmethod
    def of(
        cls,
        problem: Problem,
        grid: Sequence[Setting],
        stats: Array,
        fold: int | None,
        whose: list[int],
        more: More | None,
    ) -> _View:
        ks = np.unique(problem.folds).tolist()
        pairs = [tuple(sorted((k, j))) for k in whose for j in ks if j != k and len(ks) > 2]
        sets = dict.fromkeys([*([()] if fold is None else []), *((k,) for k in whose), *pairs])
        best = {out: best_setting(problem, grid, stats, ~np.isin(problem.folds, out)) for out in sets}
        new = [each for each in dict.fromkeys(best.values()) if each not in grid]
        if new:
            assert more is not None, "several classes need the statistics of their joint settings"
            stats = np.concatenate([stats, more(new, fold)], 1)
        return cls(problem, [*grid, *new], stats, best)

    def given(self, setting: Setting) -> Array:
        """Return the statistics (N k) of a setting."""
        return np.asarray(self.stats[:, self.grid.index(setting)])

    def settle(self, k: int) -> str:
        """Return which method a fold gets by what the others gain, each by the best setting without both."""
        folds = self.problem.folds
        others = np.setdiff1d(folds, [k]).tolist()
        if len(others) < 2:
            return "fixed"
        held, rows = np.array(self.stats[:, 0]), folds != k
        for j in others:
            held[folds == j] = self.given(self.best[min(j, k), max(j, k)])[folds == j]
        return _adopt(self.problem.part(rows), self.stats[rows, 0], held[rows])


def best_setting(problem: Problem, grid: Sequence[Setting], stats: Array, rows: Array) -> Setting:
    """Return the setting that is best on the rows of a mask, the first of equals; of classes one by one."""
    part, seen, found = problem.part(rows), stats[rows], list(grid[0])
    scores = [float(problem.metric.gain(part.judge(seen[:, g]), 0.0)) for g in range(len(grid))]
    scores = np.nan_to_num(scores, nan=-np.inf).tolist()
    for c in range(len(found)):
        rest = [*grid[0][:c], *grid[0][c + 1 :]]
        varied = [g for g, each in enumerate(grid) if [*each[:c], *each[c + 1 :]] == rest]
        found[c] = grid[max(varied, key=lambda g: (scores[g], -g))][c]
    return tuple(found)


def compare(problem: Problem, new: Array, old: Array) -> dict[str, float]:
    """Return the gain of statistics (N k) over others, its 95 % interval, paired and by group, and the gate's end."""
    now = float(problem.metric.gain(problem.judge(new), problem.judge(old)))
    boot = replicate([partial(problem.judge, new), partial(problem.judge, old)], len(problem.y), problem.group)
    gains = problem.metric.gain(boot[:, 0], boot[:, 1])
    low, high = np.quantile(gains[np.isfinite(gains)], [0.025, 0.975]) if np.isfinite(gains).any() else [np.nan] * 2
    lower = gate(np.array([now]), gains[:, None])[1]
    return {"gain": now, "low": float(low), "high": float(high), "lower": float(lower[0])}


def report(problem: Problem, choice: Choice) -> dict[str, Any]:
    """Return the scores of a choice, the published one cross-fitted, and its gain over the untuned decision."""
    found = score_oof(problem, choice.stats, None)
    found |= {"fixed": problem.judge(choice.fixed), "in_sample": problem.judge(choice.in_sample)}
    return found | {"optimal": compare(problem, choice.optimal, choice.fixed)}


def gate_gain(
    problem: Problem,
    grid: Sequence[Setting],
    stats: Array,
    more: More | None = None,
    apart: Mapping[int, Array] | None = None,
) -> dict[str, float] | None:
    """Return what empty gates gain over the best settings without one, both cross-fitted; None where there are none."""
    free = [g for g, each in enumerate(grid) if not any(d.present or d.top for d in each)]
    if len(free) == len(grid):
        return None
    gated = choose(problem, grid, stats, "optimal", more, apart)
    some = {k: each[:, free] for k, each in (apart or {}).items()}
    plain = choose(problem, [grid[g] for g in free], stats[:, free], "optimal", more, some)
    return compare(problem, gated.optimal, plain.optimal)


def as_decision(choice: Choice) -> dict[str, Any]:
    """Return what a receipt says of the decision: the settings as `from_decision` reads them."""
    return {
        "method": choice.method,
        "methods": choice.methods,
        "masks": [d.as_dict() for d in choice.deployed],
        "by_fold": {str(k): [d.as_dict() for d in each] for k, each in choice.by_fold.items()},
        "level": "crossfit",
    }


def from_decision(facts: dict[str, Any], fold: int | None = None) -> Setting:
    """Return the deployed setting that a receipt tells, or that of a fold."""
    return tuple(Decision.from_dict(d) for d in (facts["masks"] if fold is None else facts["by_fold"][str(fold)]))


def _adopt(problem: Problem, fixed: Array, optimal: Array) -> str:
    scorers: dict[str, Callable[[Array], float]] = {
        "fixed": partial(problem.judge, fixed),
        "optimal": partial(problem.judge, optimal),
    }
    return adopt(scorers, problem.metric.gain, len(problem.y), problem.group)
