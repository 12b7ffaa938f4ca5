"""Pseudo-labels of masks: how sure the maps are, pixel by pixel, and which images are kept, by the size of their masks.

The rule of the best TGS team (2018): the share of pixels with p < .2 or p > .8 says how sure an image is, and images
are taken from strata of mask size, so that empty ones do not crowd out the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.masks.maps import Maps
from pipeline.scoring.mask_variants import stream
from pipeline.store.files import Array

LOW, HIGH = 0.2, 0.8
# Borders of the strata, as shares of the image: empty, up to 5 %, a quarter, a half, three quarters, more.
STRATA = (0.0, 0.05, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class MaskRule:
    """A rule of selection: how sure an image must be, what share of each stratum is kept, and what share may be empty.

    `empties` limits the kept images without a mask to that share of all kept ones.
    """

    certainty: float = 0.9
    quota: float = 1.0
    empties: float = 0.5


def facts(maps: Maps) -> tuple[Array, Array]:
    """Return how sure the maps of every image are (N,), and the share of the image that is mask (N C) at one half.

    An image is as sure as the least sure of its classes.
    """
    classes = maps.layout.classes

    def one(i: int) -> tuple[float, Array]:
        p = maps[i][:classes].reshape(classes, -1)
        return float(((p < LOW) | (p > HIGH)).mean(1).min()), (p > 0.5).mean(1)

    found = stream(one, len(maps))
    return np.array([sure for sure, _ in found]), np.array([share for _, share in found]).reshape(-1, classes)


def stratum(coverage: Array) -> Array:
    """Return the stratum (N,) of mask size: of several classes that of the largest."""
    return np.asarray(np.searchsorted(STRATA, coverage.max(1), side="left"))


def choose(rule: MaskRule, sure: Array, coverage: Array) -> Array:
    """Return which images are kept (N,): the surest `quota` of each stratum, where sure enough; empties are limited."""
    strata, kept = stratum(coverage), np.zeros(len(sure), bool)
    for s in np.unique(strata):
        rows = np.flatnonzero(strata == s)
        kept[rows[np.argsort(-sure[rows], kind="stable")][: round(rule.quota * len(rows))]] = True
    kept &= sure >= rule.certainty
    empty = np.flatnonzero(kept & (strata == 0))
    others = np.count_nonzero(kept) - len(empty)
    allowed = len(empty) if rule.empties >= 1 else int(others * rule.empties / (1 - rule.empties))
    kept[empty[np.argsort(-sure[empty], kind="stable")][allowed:]] = False
    return kept


def soft(maps: Maps, kept: Array) -> Maps:
    """Return the targets of the kept images: their maps as they are, probabilities of each pixel, none copied."""
    return maps.part(np.flatnonzero(kept))


def worth(scores: Array, kept: Array) -> dict[str, float]:
    """Return how right a rule is where the truth is known: mean score (N,) of kept images, of all, and how many."""
    told = float(scores[kept].mean()) if kept.any() else float("nan")
    return {"kept": float(kept.mean()), "score": told, "score_of_all": float(scores.mean())}
