"""Losses of masks: logits and targets N C H W to one number a sample and class, N C (or N 1 of all classes together).

Targets are in 0..1: mixed masks and soft ones share every loss but those that sort pixels, which take what is likelier.
Classes are independent (sigmoid) or `exclusive` (softmax, targets one-hot).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.store.files import Array

# One pixel more in both sums, so that an empty mask that is predicted empty costs nothing.
SMOOTH = 1.0


def chances(logits: Tensor, exclusive: bool) -> Tensor:
    """Return the probabilities of classes N C ...."""
    return logits.softmax(1) if exclusive else logits.sigmoid()


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy, mean over pixels."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((2, 3))


def ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy of exclusive classes, mean over pixels (N 1)."""
    return -(targets * logits.log_softmax(1)).sum(1, keepdim=True).mean((2, 3))


def focal(logits: Tensor, targets: Tensor, exclusive: bool = False, gamma: float = 2.0) -> Tensor:
    """Return focal loss (Lin 2017), mean over pixels; of exclusive classes N 1."""
    if exclusive:
        log_p = logits.log_softmax(1)
        return -(targets * _power(1 - log_p.exp(), gamma) * log_p).sum(1, keepdim=True).mean((2, 3))
    p = logits.sigmoid()
    there = targets * _power(1 - p, gamma) * functional.logsigmoid(logits)
    away = (1 - targets) * _power(p, gamma) * functional.logsigmoid(-logits)
    return -(there + away).mean((2, 3))


def _power(share: Tensor, gamma: float) -> Tensor:
    return share.clamp(min=1e-6).pow(gamma)  # at 0 its slope is infinite where gamma < 1


def _sums(logits: Tensor, targets: Tensor, exclusive: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the soft numbers of pixels (N C) that are rightly there, wrongly there and wrongly away."""
    p = chances(logits, exclusive)
    both = (p * targets).sum((2, 3))
    return both, p.sum((2, 3)) - both, targets.sum((2, 3)) - both


def dice(logits: Tensor, targets: Tensor, exclusive: bool = False) -> Tensor:
    """Return one minus the soft Dice coefficient (Milletari 2016)."""
    both, more, less = _sums(logits, targets, exclusive)
    return 1 - (2 * both + SMOOTH) / (2 * both + more + less + SMOOTH)


def jaccard(logits: Tensor, targets: Tensor, exclusive: bool = False) -> Tensor:
    """Return one minus the soft intersection over union."""
    both, more, less = _sums(logits, targets, exclusive)
    return 1 - (both + SMOOTH) / (both + more + less + SMOOTH)


def tversky(logits: Tensor, targets: Tensor, exclusive: bool = False, more: float = 0.3, less: float = 0.7) -> Tensor:
    """Return the Tversky loss (Salehi 2017): what is wrongly there weighs `more`, what is wrongly away `less`."""
    both, over, under = _sums(logits, targets, exclusive)
    return 1 - (both + SMOOTH) / (both + more * over + less * under + SMOOTH)


def slopes(truth: Tensor) -> Tensor:
    """Return the gradient of the Lovasz extension of the Jaccard loss (Berman 2018) at truth (... P) in error order."""
    total = truth.sum(-1, keepdim=True)
    loss = 1 - (total - truth.cumsum(-1)) / (total + (1 - truth).cumsum(-1))
    return torch.cat([loss[..., :1], loss.diff(dim=-1)], -1)


def _hinge(logits: Tensor, truth: Tensor, elu: bool) -> Tensor:
    errors, order = (1 - logits * (2 * truth - 1)).flatten(2).sort(-1, descending=True)
    slope = slopes(truth.flatten(2).gather(-1, order))
    return ((functional.elu(errors) + 1 if elu else errors.relu()) * slope).sum(-1)


def lovasz(logits: Tensor, targets: Tensor, elu: bool = False, symmetric: bool = False) -> Tensor:
    """Return the Lovasz hinge (Berman 2018) of each image; `elu`: elu + 1 for its hinge, which no pixel leaves.

    `symmetric`: the mean of it and of that of the background.
    """
    truth = (targets > 0.5).to(logits.dtype)
    loss = _hinge(logits, truth, elu)
    return (loss + _hinge(-logits, 1 - truth, elu)) / 2 if symmetric else loss


def lovasz_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Lovasz-Softmax loss (Berman 2018) of each image, mean over the classes that are in it (N 1)."""
    truth = functional.one_hot(targets.argmax(1), targets.shape[1]).movedim(-1, 1).to(logits.dtype).flatten(2)
    errors, order = (truth - logits.softmax(1).flatten(2)).abs().sort(-1, descending=True)
    each = (errors * slopes(truth.gather(-1, order))).sum(-1)
    there = truth.amax(-1)
    return (each * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)


def signed_distance(mask: Array) -> Array:
    """Return the distance (pixels, float32) to a mask h w outside it and minus that to its border inside; empty: 0."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    mask = np.ascontiguousarray(mask, np.uint8)
    if mask.all():  # nothing is outside, and OpenCV would answer with its largest number
        return np.zeros(mask.shape, np.float32)
    outside, inside = (cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (1 - mask, mask))
    return np.asarray(outside - np.maximum(inside - 1, 0), np.float32)


def boundary(logits: Tensor, targets: Tensor, exclusive: bool = False) -> Tensor:
    """Return the boundary loss (Kervadec 2019): the mean over pixels of p times the signed distance to the mask."""
    masks = (targets.detach() > 0.5).cpu().numpy()
    far = torch.from_numpy(np.stack([[signed_distance(mask) for mask in each] for each in masks]))
    return (chances(logits, exclusive) * far.to(logits.device)).mean((2, 3))


INDEPENDENT: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
    "jaccard": jaccard,
    "lovasz": lovasz,
    "boundary": boundary,
}
EXCLUSIVE: dict[str, Callable[..., Tensor]] = {
    "ce": ce,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
    "jaccard": jaccard,
    "lovasz_softmax": lovasz_softmax,
    "boundary": boundary,
}


def options_of(name: str, exclusive: bool, known: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a loss takes of those that a config knows."""
    more, less = known.get("tversky", (0.3, 0.7))
    own: dict[str, dict[str, Any]] = {
        "focal": {"gamma": known.get("gamma", 2.0)},
        "tversky": {"more": more, "less": less},
        "lovasz": {"elu": known.get("hinge") == "elu", "symmetric": known.get("symmetric", False)},
    }
    both = {"exclusive": exclusive} if name in INDEPENDENT and name in EXCLUSIVE else {}
    return own.get(name, {}) | both
