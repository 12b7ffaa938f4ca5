"""Greedy selection with replacement (Caruana 2004), bagged, for any metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pipeline.store.files import Array


class Tries(Protocol):
    """What a step of the selection asks: how good the running mean would be with each member in it."""

    @property
    def error(self) -> float:
        """Return how far scores may be from those of the definition, 0 where they are by it."""

    def scores(self, size: int) -> Array:
        """Return the scores (M,) of the means of `size` members: those chosen so far and each member in turn."""

    def add(self, member: int) -> None:
        """Choose a member."""


class Plain:
    """Tries by the definition: every mean in full, scored as it is."""

    error = 0.0

    def __init__(self, members: Sequence[Array], score: Callable[[Array, Array], float], weight: Array) -> None:
        self.members, self.score, self.weight = members, score, weight
        self.running = np.zeros(members[0].shape)

    def scores(self, size: int) -> Array:
        """Return the scores (M,) of the running mean with each member in it."""
        return np.array([self.score((self.running + p) / size, self.weight) for p in self.members])

    def add(self, member: int) -> None:
        """Choose a member."""
        self.running = self.running + self.members[member]


def greedy(
    members: Sequence[Array],
    score: Callable[[Array, Array], float],
    resamples: Sequence[Array],
    steps: int,
    quick: Callable[[Array], Tries | None] = lambda weight: None,
) -> Array:
    """Select with replacement, bagged: `score(prediction, row weight)` is maximised.

    Each bag is one row weighting of `resamples`; it starts from its best member, adds the member that helps most, and
    keeps its best prefix. Return the mean weights (M,) of the bags. `quick(row weight)` may give fast tries (see
    `trials`): what they cannot tell apart is scored by the definition, so that the same members are chosen.
    """
    totals = np.zeros(len(members))
    for weight in resamples:

        def exact(picks: Sequence[int], weight: Array = weight) -> float:
            running = np.zeros(members[0].shape)
            for pick in picks:
                running = running + members[pick]
            return score(running / len(picks), weight)

        tries = quick(weight) or Plain(members, score, weight)
        picks = _best_prefix(tries, exact, steps)
        totals += np.bincount(picks, minlength=len(members)) / len(picks)
    return np.asarray(totals / totals.sum())


def _best_prefix(tries: Tries, exact: Callable[[Sequence[int]], float], steps: int) -> list[int]:
    """Return the members chosen up to the best step, the first of equal ones; `exact` scores members by definition."""
    picks: list[int] = []
    best, best_score = 1, -np.inf
    for size in range(1, steps + 1):
        scores = tries.scores(size)
        near = np.flatnonzero(scores >= scores.max() - tries.error)
        if tries.error and len(near) > 1:
            near = near[[int(np.argmax([exact([*picks, int(m)]) for m in near]))]]
        picks.append(int(near[0]))
        tries.add(picks[-1])
        gain = scores[picks[-1]] - best_score
        if size > 1 and abs(gain) <= tries.error:
            gain = exact(picks) - exact(picks[:best])
        if gain > 0:
            best, best_score = size, scores[picks[-1]]
    return picks[:best]
