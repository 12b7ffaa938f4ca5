"""Salt-like maps drawn by chance: masks, what a network would say of them, and what it gets wrong."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.masks.decide import components
from pipeline.masks.maps import Maps, layout, pack
from pipeline.masks.metrics import MASK_METRICS
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


@dataclass(frozen=True)
class Truth:
    """True masks (C H W) in memory."""

    masks: list
    kind: str = "classes"

    def __getitem__(self, row):
        return self.masks[row]

    def instances(self, row):
        return components(self.masks[row][0])[0]


def smooth(rng, size, width):
    """A smooth random field with unit variance."""
    field = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), width)
    return (field - field.mean()) / field.std()


def disc(size, centre, radius):
    """The signed distance to the border of a disc, positive inside."""
    y, x = np.mgrid[:size, :size]
    return radius - np.hypot(y - centre[0], x - centre[1])


def packed(maps, present=None, classes=1, extra=0):
    """Maps (C+E h w each) on a shelf; presence 1 unless told."""
    present = np.ones((len(maps), classes)) if present is None else present
    flat = np.concatenate([pack(m, q) for m, q in zip(maps, present, strict=True)])
    return Maps(flat, layout(np.array([m.shape[1:] for m in maps]), classes, extra))


def problem_of(truth, metric="tgs_precision", folds=5, group=None):
    """The problem of all rows of a truth, fold by row number."""
    n = len(truth.masks)
    y = np.array([mask.mean((1, 2)) for mask in truth.masks])
    k = np.arange(n) % folds if group is None else np.unique(group, return_inverse=True)[1] % folds
    return Problem(TASKS["segmentation"], METRICS[metric], y.shape[1], y, k, group)


def faint(n, seed=0, size=40, planted=True):
    """Maps, truth: a large body or none, and small objects, of which the faint ones are false (by chance if not planted).

    Large bodies are faint as often as not, so that neither a threshold nor an area does what both together do.
    """
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for _ in range(n):
        logit, mask = np.full((size, size), -4.0), np.zeros((size, size), bool)
        if rng.random() < 0.6:
            body = disc(size, rng.integers(8, size - 8, 2), rng.uniform(7, 11))
            mask |= body > 0
            logit = np.maximum(logit, rng.choice([0.7, 3.0]) * np.clip(body, -4, 1))
        for _ in range(rng.integers(0, 4)):
            spot, bright = disc(size, rng.integers(4, size - 4, 2), rng.uniform(2, 3.5)), rng.random() < 0.5
            logit = np.maximum(logit, (3.0 if bright else 0.7) * np.clip(spot, -4, 1))
            if bright if planted else rng.random() < 0.5:
                mask |= spot > 0
        logit = logit + 0.3 * smooth(rng, size, 1.5)
        maps.append(1 / (1 + np.exp(-logit))[None])
        masks.append(mask[None])
    return packed(maps), Truth(masks)


def metric_of(problem):
    """The metric of masks behind a problem."""
    return MASK_METRICS[problem.metric.name]


def salt(n, seed=0, size=48):
    """Maps of two networks and their mean, and truth, like TGS: 38 % empty, bodies cut by the border, false ones.

    A network sees a body through noise as strong as the image is hard, with the same false spots as the other.
    """
    rng = np.random.default_rng(seed)
    masks, seen = [], ([], [])
    for _ in range(n):
        empty, hard = rng.random() < 0.38, rng.uniform(0.3, 2.5)
        body = smooth(rng, size, size / 5) + rng.normal() - 0.4
        mask = (body > 0) & (not empty)
        shared = 3 * np.clip(2 * body, -1, 1) if mask.any() else np.full((size, size), -2.5)
        shared = np.maximum(shared, 2.2 * smooth(rng, size, 2.5) - 5.5) + hard * smooth(rng, size, 3)
        for maps in seen:
            logit = shared + 0.6 * hard * smooth(rng, size, 2)
            maps.append(1 / (1 + np.exp(-logit))[None])
        masks.append(mask[None])
    both = [packed(maps) for maps in seen]
    return packed([(one + other) / 2 for one, other in zip(*seen, strict=True)]), both, Truth(masks)
