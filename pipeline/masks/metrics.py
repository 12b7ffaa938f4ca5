"""Metrics of masks: numbers of each image, then one reduction over images, so that rows can be drawn and weighed.

Counts are whole numbers, so `IoU > t` is decided without rounding. Where truth and guess are both empty the score is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.store.files import Array

# Thresholds .5, .55 ... .95 in twentieths.
STEPS = np.arange(10, 20)

OfCounts = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class MaskMetric:
    """A metric of masks: numbers (k) of an image, and `reduce`, the score of numbers (N k) and weights (N).

    `of_counts` gives the numbers by the pixels (... C) of both, of the truth and of the guess; without it the metric
    compares labelled objects. `rows`: it is the mean of the numbers of all images. `classes` are the places of those
    that are scored (None: all).
    """

    name: str
    of_counts: OfCounts | None
    reduce: Callable[[Array, Array], float]
    rows: bool = False
    greater: bool = True
    classes: tuple[int, ...] | None = None

    def of(self, classes: tuple[int, ...] | None) -> MaskMetric:
        """Return the metric of some classes alone."""
        return replace(self, classes=classes)

    @property
    def objects(self) -> bool:
        """Say whether it compares objects, not pixels."""
        return self.of_counts is None

    def stats(self, truth: Array, guess: Array, instances: Array | None = None, objects: Array | None = None) -> Array:
        """Return the numbers (k) of an image: masks C H W bool; true and guessed objects H W, 0 where there is none."""
        if self.of_counts is None:
            return object_precision(instances, objects)
        if self.classes is not None:
            truth, guess = truth[list(self.classes)], guess[list(self.classes)]
        return self.of_counts(*counts(truth, guess))


def counts(truth: Array, guess: Array) -> Array:
    """Return the pixels of both, of the truth and of the guess (3 C) of masks C H W bool."""
    both = [np.count_nonzero(t & g) for t, g in zip(truth, guess, strict=True)]
    return np.array([both, [np.count_nonzero(t) for t in truth], [np.count_nonzero(g) for g in guess]], np.float64)


def side_by_side(both: Array, truth: Array, guess: Array) -> Array:
    """Return the counts (... 3C) themselves, which are added up over images before they are scored."""
    return np.concatenate([both, truth, guess], -1)


def dice_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return 2 both / (truth + guess), 1 where nothing is on either side."""
    return np.where(truth + guess > 0, 2 * both / np.maximum(truth + guess, 1e-12), 1.0)


def iou_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return both / either, 1 where nothing is on either side."""
    either = truth + guess - both
    return np.where(either > 0, both / np.maximum(either, 1e-12), 1.0)


def precision_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return the share of the thresholds .5, .55 ... .95 that the IoU exceeds, 1 where nothing is on either side."""
    either = np.asarray(truth + guess - both, np.int64)
    # The thresholds k / 20 below both / either are as many as its twentieths, rounded up, lie over 10.
    passed = -(-20 * np.asarray(both, np.int64) // np.maximum(either, 1)) - STEPS[0]
    return np.where(either > 0, passed.clip(0, len(STEPS)) / len(STEPS), 1.0)


def object_precision(instances: Array | None, objects: Array | None) -> Array:
    """Return the mean over thresholds of TP / (TP + FP + FN) of objects (1), as DSB 2018: a hit has IoU > t."""
    assert instances is not None
    assert objects is not None
    shape = int(instances.max(initial=0)) + 1, int(objects.max(initial=0)) + 1
    code = instances.astype(np.int64).ravel() * shape[1] + objects.ravel()
    table = np.bincount(code, minlength=shape[0] * shape[1]).reshape(shape)
    mine, theirs = table.sum(1)[1:], table.sum(0)[1:]
    total = np.count_nonzero(mine) + np.count_nonzero(theirs)
    if total == 0:
        return np.ones(1)
    one, other = np.nonzero(table[1:, 1:])
    both = table[1:, 1:][one, other]
    # Above an IoU of a half no object has two partners, so hits need no assignment.
    hits = _passed(both, mine[one] + theirs[other] - both).sum(0)
    return np.array([(hits / (total - hits)).mean()])


def _passed(both: Array, either: Array) -> Array:
    """Say which thresholds (last axis) both / either exceeds."""
    return np.asarray(20 * both[..., None] > STEPS * either[..., None])


def mean(stats: Array, weight: Array) -> float:
    """Return the mean over images of the mean of their numbers."""
    return float(np.average(stats.mean(1), weights=weight))


def pooled(score: Callable[[Array, Array, Array], Array], stats: Array, weight: Array) -> float:
    """Return the score of the pixels of all images and classes together."""
    return float(score(*(weight @ stats).reshape(3, -1).sum(1)))


def mean_iou(stats: Array, weight: Array) -> float:
    """Return the mean over classes of the IoU of the pixels of all images; a class that is nowhere is left out."""
    both, truth, guess = (weight @ stats).reshape(3, -1)
    there = truth + guess > 0
    return float(iou_of(both, truth, guess)[there].mean()) if there.any() else 1.0


MASK_METRICS = {
    metric.name: metric
    for metric in (
        MaskMetric("dice", dice_of, mean, rows=True),
        MaskMetric("iou", iou_of, mean, rows=True),
        MaskMetric("dice_pooled", side_by_side, lambda stats, weight: pooled(dice_of, stats, weight)),
        MaskMetric("iou_pooled", side_by_side, lambda stats, weight: pooled(iou_of, stats, weight)),
        MaskMetric("mean_iou", side_by_side, mean_iou),
        MaskMetric("tgs_precision", precision_of, mean, rows=True),
        MaskMetric("dsb_precision", None, mean, rows=True),
    )
}
