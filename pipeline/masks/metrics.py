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

Stats = Callable[[Array, Array, Array | None, Array | None], Array]


@dataclass(frozen=True)
class MaskMetric:
    """A metric of masks: `measure` gives the numbers (k) of an image, `reduce` the score of numbers (N k), weights (N).

    `objects`: it compares labelled objects, not pixels. `rows`: it is the mean of the numbers of all images. `classes`
    are the places of those that are scored (None: all).
    """

    name: str
    measure: Stats
    reduce: Callable[[Array, Array], float]
    objects: bool = False
    rows: bool = False
    greater: bool = True
    classes: tuple[int, ...] | None = None

    def of(self, classes: tuple[int, ...] | None) -> MaskMetric:
        """Return the metric of some classes alone."""
        return replace(self, classes=classes)

    def stats(self, truth: Array, guess: Array, instances: Array | None = None, objects: Array | None = None) -> Array:
        """Return the numbers (k) of an image: masks C H W bool; true and guessed objects H W, 0 where there is none."""
        if self.classes is not None:
            truth, guess = truth[list(self.classes)], guess[list(self.classes)]
        return self.measure(truth, guess, instances, objects)


def counts(truth: Array, guess: Array, instances: Array | None = None, objects: Array | None = None) -> Array:
    """Return the pixels of both, of the truth and of the guess, by class (3C)."""
    both = [np.count_nonzero(t & g) for t, g in zip(truth, guess, strict=True)]
    return np.array(both + [np.count_nonzero(t) for t in truth] + [np.count_nonzero(g) for g in guess], np.float64)


def dice_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return 2 both / (truth + guess), 1 where nothing is on either side."""
    return np.where(truth + guess > 0, 2 * both / np.maximum(truth + guess, 1e-12), 1.0)


def iou_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return both / either, 1 where nothing is on either side."""
    either = truth + guess - both
    return np.where(either > 0, both / np.maximum(either, 1e-12), 1.0)


def precision_of(both: Array, truth: Array, guess: Array) -> Array:
    """Return the share of the thresholds .5, .55 ... .95 that the IoU exceeds, 1 where nothing is on either side."""
    either = truth + guess - both
    return np.where(either > 0, _passed(both, either).mean(-1), 1.0)


def object_precision(truth: Array, guess: Array, instances: Array | None, objects: Array | None) -> Array:
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


def _by_class(score: Callable[[Array, Array, Array], Array]) -> Stats:
    def measure(truth: Array, guess: Array, instances: Array | None, objects: Array | None) -> Array:
        return score(*counts(truth, guess).reshape(3, -1))

    return measure


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
        MaskMetric("dice", _by_class(dice_of), mean, rows=True),
        MaskMetric("iou", _by_class(iou_of), mean, rows=True),
        MaskMetric("dice_pooled", counts, lambda stats, weight: pooled(dice_of, stats, weight)),
        MaskMetric("iou_pooled", counts, lambda stats, weight: pooled(iou_of, stats, weight)),
        MaskMetric("mean_iou", counts, mean_iou),
        MaskMetric("tgs_precision", _by_class(precision_of), mean, rows=True),
        MaskMetric("dsb_precision", object_precision, mean, objects=True, rows=True),
    )
}
