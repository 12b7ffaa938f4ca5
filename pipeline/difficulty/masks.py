"""Tags of masks: the score of each image, doubt at the borders, masks that look wrong, and P(a bad mask).

A mask is bad where its score is below a bound. A label looks wrong where the score falls short of what is predicted
for the image by more than scores of images predicted alike scatter: low, though the model is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from pipeline.difficulty.difficulty import SUSPECT, TINY, Difficulty, crossfit
from pipeline.difficulty.labels import OUTLIER, belief, splits
from pipeline.forecast.mask_features import IMAGE, MASK
from pipeline.forecast.mask_survey import Action, Source, survey
from pipeline.forecast.mask_table import trees
from pipeline.scoring.mask_variants import Setting
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

# Scores of images that are predicted alike scatter by no less than this: a step of the TGS metric is .1.
LEAST = 0.05
BINS = 5
BAD = 0.5


@dataclass(frozen=True)
class MaskTags:
    """Of N scored and T test images: P(label wrong) and `bad` (N,), P(bad), tags and doubt at the edges (N + T,)."""

    label_wrong: Array
    bad: Array
    p_error: Array
    tags: Array
    edges: Array
    difficulty: Difficulty


def scores(problem: Problem, stats: Array) -> Array:
    """Return the score of every image by itself (N,), from the statistics (N k) of its mask."""
    metric, y = problem.metric, problem.y
    if metric.rows is not None:
        return np.asarray(metric.rows(y, stats), np.float64)
    once = np.ones(1)
    return np.array([metric.function(y[i : i + 1], stats[i : i + 1], once) for i in range(len(stats))])


def look(source: Source, settings: Sequence[Setting]) -> tuple[Array, Array]:
    """Return label-free features (N F, first the stated doubt) of the decided masks, and the doubt at their edges (N,).

    `settings`: one for each image.
    """
    kinds = list(dict.fromkeys(settings))
    found = survey(source, [Action(each) for each in kinds]).features.astype(np.float64)
    seen = found[np.arange(len(found)), [kinds.index(each) for each in settings]]
    names = [*IMAGE, *(f"image{s}" for s in range(source.statistics.shape[1])), *MASK]
    at = {name: seen[:, names.index(name)] for name in ("area", "soft iou", "top", "doubt at edge")}
    # An empty mask is wrong where the surest pixels are right.
    doubt = np.where(at["area"] > 0, 1 - at["soft iou"], at["top"])
    stated = logit(np.clip(doubt, TINY, 1 - TINY))
    return np.column_stack([stated, seen[:, : len(names)]]), at["doubt at edge"]


def label_wrong(x: Array, score: Array, folds: Array) -> Array:
    """Return P(label wrong) (N,) by how far scores fall short of what other folds predict, in robust sd.

    The sd is that of the shortfalls of images whose score is predicted alike; 3.5 of them are a half.
    """
    predicted = np.zeros(len(score))
    for rows, mine in splits(folds):
        predicted[mine] = trees(x[rows], score[rows])(x[mine])
    short = predicted - score
    edges = np.unique(np.quantile(predicted, np.arange(1, BINS) / BINS))
    place = np.searchsorted(edges, predicted)
    z = np.zeros(len(score))
    for b in np.unique(place):
        mine = place == b
        middle = np.median(short[mine])
        spread = max(1.4826 * float(np.median(np.abs(short[mine] - middle))), LEAST)
        z[mine] = (short[mine] - middle) / spread
    return np.asarray(expit(z - OUTLIER))


def assess(
    problem: Problem,
    score: Array,
    seen: tuple[Array, Array],
    tests: Sequence[tuple[Array, Array]],
    easy_error: float,
    hard_share: float,
) -> MaskTags:
    """Tag scored images, cross-fitted along the folds, and test images, by each fold's models and averaged.

    `score` (N,) are the cross-fitted scores of single images (see `scores`), `seen` and `tests` what `look` gives.
    """
    x, folds, bad = seen[0], problem.folds, score < BAD
    p_wrong = label_wrong(x, score, folds)

    def believe(rows: Array) -> Array:
        return belief(label_wrong(x[rows], score[rows], folds[rows]))

    found = crossfit(x, bad, folds, believe, easy_error, hard_share)
    p_test = np.mean([found.model.predict(views) for views, _ in tests], 0)
    tags = np.concatenate([np.where(p_wrong > 0.5, SUSPECT, found.tags), found.cuts.tags(p_test)])
    edges = np.mean([edges for _, edges in tests], 0)
    return MaskTags(p_wrong, bad, np.r_[found.p_error, p_test], tags, np.r_[seen[1], edges], found)
