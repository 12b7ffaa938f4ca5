"""Pseudo-labels of masks: how sure the maps are, pixel by pixel, and which images are kept, by the size of their masks.

The rule of the best TGS team (2018): the share of pixels with p < .2 or p > .8 says how sure an image is, and images
are taken from strata of mask size, so that empty ones do not crowd out the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.masks.maps import Maps
from pipeline.scoring.mask_shelf import Mixed
from pipeline.scoring.mask_variants import stream
from pipeline.scoring.pseudo import say
from pipeline.store.files import Array
from pipeline.tasks import TASKS

LOW, HIGH = 0.2, 0.8
# Borders of the strata, as shares of the image: empty, up to 5 %, a quarter, a half, three quarters, more.
STRATA = (0.0, 0.05, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class MaskRule:
    """A rule of selection: how sure an image must be, what share of each stratum is kept, and what share may be empty.

    `empties` limits the kept images without a mask to that share of all kept ones. `stratify` = False: one quota for
    masks of all sizes together.
    """

    certainty: float = 0.9
    quota: float = 1.0
    empties: float = 0.5
    stratify: bool = True


def facts(maps: Maps | Mixed, classes: int, exclusive: bool = False) -> tuple[Array, Array]:
    """Return how sure the maps of every image are (N,), and the share of the image that is mask (N C) at one half.

    An image is as sure as the least sure of its classes. Of exclusive classes each pixel is of the likeliest, and the
    first is background, no mask.
    """

    def one(i: int) -> tuple[float, Array]:
        p = maps[i][:classes].reshape(classes, -1)
        share = (p.argmax(0) == np.arange(classes)[:, None] if exclusive else p > 0.5).mean(1)
        share[: int(exclusive)] = 0
        return float(((p < LOW) | (p > HIGH)).mean(1).min()), share

    found = stream(one, len(maps))
    return np.array([sure for sure, _ in found]), np.array([share for _, share in found]).reshape(-1, classes)


def stratum(coverage: Array) -> Array:
    """Return the stratum (N,) of mask size: of several classes that of the largest."""
    return np.asarray(np.searchsorted(STRATA, coverage.max(1), side="left"))


def choose(rule: MaskRule, sure: Array, coverage: Array) -> Array:
    """Return which images are kept (N,): the surest `quota` of each stratum, where sure enough; empties are limited."""
    strata, kept = stratum(coverage), np.zeros(len(sure), bool)
    for s in np.unique(strata) if rule.stratify else [None]:
        rows = np.arange(len(sure)) if s is None else np.flatnonzero(strata == s)
        kept[rows[np.argsort(-sure[rows], kind="stable")][: round(rule.quota * len(rows))]] = True
    kept &= sure >= rule.certainty
    empty = np.flatnonzero(kept & (strata == 0))
    others = np.count_nonzero(kept) - len(empty)
    allowed = len(empty) if rule.empties >= 1 else int(others * rule.empties / (1 - rule.empties))
    kept[empty[np.argsort(-sure[empty], kind="stable")][allowed:]] = False
    return kept


def say_mask(p: Array, exclusive: bool, targets: str, temperature: float) -> Array:
    """Return what is said of an image by its probabilities (C h w): masks at one half, these as they are, or between.

    See `scoring.pseudo.say`: to it pixels are rows, of one class each or of several labels.
    """
    task, pixels = TASKS["multiclass" if exclusive else "multilabel"], p.reshape(len(p), -1).T
    said = say(task, pixels, np.ones(pixels.shape, bool), task.default_cuts(len(p)), targets, temperature)
    return np.asarray(said.T.reshape(p.shape), np.float32)


def state(coverage: Array) -> dict[str, float]:
    """Return the state of a round by what is decided of all test images (N C): the share of empty ones, mean area."""
    return {"empty": float((coverage.max(1) == 0).mean()), "area": float(coverage.max(1).mean())}


def collapsing(now: dict[str, float], before: dict[str, float]) -> str | None:
    """Say why another round would harm, None if nothing speaks against it: masks that fade teach masks that fade.

    A tenth more of the images is empty than in the round before, or the masks cover less than three quarters as much.
    """
    if now["empty"] > before["empty"] + 0.1:
        return f"the share of empty masks rose from {before['empty']:.3f} to {now['empty']:.3f}"
    if now["area"] < 0.75 * before["area"]:
        return f"the mean area of masks fell from {before['area']:.4f} to {now['area']:.4f} of the image"
    return None
