"""Blend weights of masks, fitted on a sample of pixels that takes as many from every image, cross-fitted by fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.masks.maps import Maps
from pipeline.scoring.bootstrap import adopt
from pipeline.scoring.classification import EPS
from pipeline.scoring.convex import convex_log_loss
from pipeline.scoring.mask_variants import Masks, stream
from pipeline.store.files import Array

# Pixels of an image: a third from inside its masks, from their borders, and from outside.
PIXELS = 300


@dataclass(frozen=True)
class Sample:
    """What M members gave to what is true at S pixels (S M), and the image of each pixel (S,)."""

    true: Array
    image: Array


@dataclass(frozen=True)
class Weights:
    """Blend weights (M,) of each fold, fitted without it, and deployed ones, with the method of each.

    `loss` (N 2) are the log losses of the images by uniform and by convex weights, cross-fitted.
    """

    by_fold: dict[int, Array]
    methods: dict[int, str]
    deployed: Array
    method: str
    gap: float | None
    loss: Array


def sample(
    members: Sequence[Maps],
    truth: Masks,
    rows: Array,
    pixels: int = PIXELS,
    seed: int = 0,
    classes: Sequence[int] | None = None,
) -> Sample:
    """Draw pixels of every image and class: as many from inside the mask, its border and outside, where there are any.

    `rows` (N,): which row of the truth each of the maps is of. `classes`: of some classes alone, which are scored. A
    pixel of classes that exclude each other is one draw.
    """
    exclusive = truth.kind == "exclusive"

    def one(i: int) -> Array:
        right = _small(truth[int(rows[i])], members[0].size(i))
        maps = np.stack([m[i][: len(right)] for m in members])
        rng, found = np.random.default_rng([seed, i]), []
        some = range(len(right)) if classes is None else classes
        for c in some:
            mask = right[c]
            for part in zones(mask):
                drawn = rng.choice(part, min(len(part), -(-pixels // (3 * len(some)))), replace=False)
                p = maps[:, c].reshape(len(maps), -1)[:, drawn]
                if exclusive:
                    at = right.reshape(len(right), -1)[:, drawn].argmax(0)
                    p = maps.reshape(*maps.shape[:2], -1)[:, at, drawn]
                found.append(p if exclusive else np.where(mask.ravel()[drawn], p, 1 - p))
        return np.concatenate(found, 1).T

    parts = stream(one, len(rows))
    image = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Sample(np.concatenate(parts).astype(np.float64), image)


def zones(mask: Array) -> list[Array]:
    """Return the pixels (flat positions) inside a mask (H W), within two of its border, and outside."""
    solid, square = mask.astype(np.uint8), np.ones((5, 5), np.uint8)
    wide, small = cv2.dilate(solid, square).view(bool), cv2.erode(solid, square).view(bool)
    return [np.flatnonzero(small), np.flatnonzero(wide & ~small), np.flatnonzero(~wide)]


def fit_weights(drawn: Sample, folds: Array, group: Array | None, method: str = "auto") -> Weights:
    """Fit convex weights of log loss for each fold without it, uniform ones unless a gain passes the gate.

    `folds` and `group` are of the N images; every image counts as much, whatever its size.
    """
    n, ks = len(folds), np.unique(folds).tolist()
    count = np.bincount(drawn.image, minlength=n)
    each, uniform = 1 / count[drawn.image], np.full(drawn.true.shape[1], 1 / drawn.true.shape[1])

    def fit(out: tuple[int, ...]) -> tuple[Array, float]:
        mine = ~np.isin(folds, out)[drawn.image]
        return convex_log_loss(drawn.true[mine], each[mine])

    def losses(out: tuple[int, ...]) -> Array:
        """Return the losses (N 2) of images by uniform weights, and by those fitted without their fold and `out`."""
        found = np.zeros((n, 2))
        for j in set(ks) - set(out):
            for column, w in enumerate((uniform, fit((*out, j))[0])):
                found[folds == j, column] = _by_image(drawn, w, each, n)[folds == j]
        return found

    def choose(out: tuple[int, ...]) -> str:
        if method != "auto":
            return method
        rows = ~np.isin(folds, out)
        if len(uniform) < 2 or len(np.unique(folds[rows])) < 2:
            return "uniform"
        table = losses(out)[rows]
        scorers = {name: _mean(table[:, c]) for c, name in enumerate(("uniform", "convex"))}
        return adopt(scorers, lambda new, old: old - new, len(table), None if group is None else group[rows])

    methods = {k: choose((k,)) for k in ks}
    by_fold = {k: fit((k,))[0] if methods[k] == "convex" else uniform for k in ks}
    last = choose(())
    deployed, gap = fit(()) if last == "convex" else (uniform, None)
    return Weights(by_fold, methods, deployed, last, gap, losses(()) if len(ks) > 1 else np.zeros((n, 2)))


def _by_image(drawn: Sample, w: Array, each: Array, n: int) -> Array:
    """Return the mean log loss (N,) of the pixels of every image."""
    loss = -np.log(np.maximum(drawn.true @ w, EPS))
    return np.bincount(drawn.image, loss * each, n)


def _mean(values: Array) -> Callable[[Array], float]:
    return lambda weight: float(np.average(values, weights=weight))


def _small(masks: Array, size: tuple[int, int]) -> Array:
    """Return masks (C H W bool) at the size of the maps: a pixel is mask where half of it is."""
    if masks.shape[1:] == size:
        return masks
    return np.stack([cv2.resize(m.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) >= 0.5 for m in masks])
