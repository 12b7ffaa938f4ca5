"""Scored and test rows as post-processing and the score predictor may see them: by models that never trained on them.

Arrays over "all rows" hold the N_s scored rows, then the N_t test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.forecast.candidates import View, recut
from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.features import label_free
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

Decision = dict[str, Any] | None


@dataclass(frozen=True)
class Seen:
    """One model over all rows: predictions (N P), sd over TTA views and distance to its training rows (N each).

    And the `votes` (N P) of the nearest of these, where they are asked, NaN where they know nothing.
    Of the scored rows only those that it did not train on are used; the others may hold anything.
    """

    p: Array
    spread: Array
    distance: Array
    votes: Array | None = None


@dataclass(frozen=True)
class Source:
    """Where views come from.

    `leaves`: the trained runs below a run, with their decisions as receipts tell them; `seen(leaf, held_out)`: that
    model of a leaf that trained on none of the held-out folds (one, or two in order); `statistics` (N S) of all images,
    `blocks` (N,) of all rows.
    """

    problem: Problem
    decision: Decision
    leaves: dict[str, Decision]
    seen: Callable[[str, tuple[int, ...]], Seen]
    statistics: Array
    blocks: Array

    def scored(self, raw: Callable[[dict[str, Array]], Array], blind: int | None = None) -> View:
        """Return the scored rows, each by the models of its own fold, or by those that are `blind` to another as well.

        `raw` makes the run's predictions (N_s P) of those of its leaves.
        """
        folds = self.problem.folds
        below = {leaf: np.zeros(0) for leaf in self.leaves}
        looks, votes = np.zeros((2, len(folds))), voted([])
        for j in np.unique(folds).tolist():
            mine = np.flatnonzero(folds == j)
            held_out = (j,) if blind in (None, j) else (min(j, blind), max(j, blind))
            seen = {leaf: self.seen(leaf, held_out) for leaf in self.leaves}
            for leaf, model in seen.items():
                below[leaf] = below[leaf] if below[leaf].size else np.zeros((len(folds), model.p.shape[1]), np.float32)
                below[leaf][mine] = model.p[mine]
            looks[:, mine] = np.mean([(model.spread[mine], model.distance[mine]) for model in seen.values()], 0)
            if (said := voted(seen.values())) is not None:
                votes = said[: len(folds)].copy() if votes is None else votes
                votes[mine] = said[mine]
        view = self._view(raw(below), below, looks, folds if blind is None else blind, np.arange(len(folds)))
        return replace(view, votes=votes)

    def test(self, raw: Array, fold: int) -> View:
        """Return the test rows as the models of a fold see them; `raw` (N_t P): the run's predictions by that fold."""
        seen = {leaf: self.seen(leaf, (fold,)) for leaf in self.leaves}
        rows = np.arange(len(self.problem.folds), len(self.blocks))
        looks = np.mean([(model.spread[rows], model.distance[rows]) for model in seen.values()], 0)
        votes = voted(seen.values())
        view = self._view(raw, {leaf: model.p[rows] for leaf, model in seen.items()}, looks, fold, rows)
        return replace(view, votes=None if votes is None else votes[rows])

    def whole(self, raw: Array, models: list[View]) -> View:
        """Return the test rows as submitted (`raw`, N_t P), decided by the cuts that `submit` moves to the mean."""
        task, cuts, one = self.problem.task, self._cuts(self.decision, None), models[0]
        if self.decision is not None and self.decision["method"] != "fixed":
            cuts = match_ensemble(task, cuts, [view.raw for view in models], raw)
        return View(recut(task, raw, cuts), raw, one.leaves, one.features, one.blocks)

    def _view(self, raw: Array, below: dict[str, Array], looks: Array, folds: Array | int, rows: Array) -> View:
        members = np.stack([self._recut(p, self.leaves[leaf], folds) for leaf, p in below.items()])
        features = label_free(self.problem.task, members, looks[0], looks[1], self.statistics[rows])
        return View(self._recut(raw, self.decision, folds), raw, members, features, self.blocks[rows])

    def _recut(self, p: Array, decision: Decision, folds: Array | int) -> Array:
        """Carry predictions to the untuned cuts, each row from those of its fold."""
        out, folds = np.empty(p.shape, np.float32), np.broadcast_to(folds, len(p))
        for k in np.unique(folds).tolist():
            out[folds == k] = recut(self.problem.task, p[folds == k], self._cuts(decision, k))
        return out

    def _cuts(self, decision: Decision, fold: int | None) -> Array:
        if decision is None:
            return self.problem.task.default_cuts(self.problem.classes)
        return np.array(decision["cuts"] if fold is None else decision["by_fold"][str(fold)])


def voted(models: Iterable[Seen]) -> Array | None:
    """Return the mean vote (N P) inside several models, NaN where none of them knows, or None where none is asked."""
    votes = [model.votes for model in models if model.votes is not None]
    if not votes:
        return None
    known = np.sum([~np.isnan(vote) for vote in votes], 0)
    return np.asarray(np.where(known > 0, np.nansum(votes, 0) / np.maximum(known, 1), np.nan))
