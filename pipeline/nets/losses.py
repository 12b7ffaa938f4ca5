"""Losses: `(scores N D, targets N D) -> N`, one number a sample; the engine takes the mean, once.

Class targets are soft (one-hot, mixed or smoothed), so that mixup, cutmix and label smoothing share every loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.tasks import Task


class Goal(Protocol):
    """What the loop goes down: it is told the share of the epochs that are over, and gives one loss a sample (N)."""

    progress: float

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (N) of what a network gives (N ...) against targets (N ...)."""


def ce(scores: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy with soft targets."""
    return -(targets * scores.log_softmax(1)).sum(1)


def over_labels(entries: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of N L entries over all labels or values; an unknown one (target NaN) adds nothing."""
    return torch.where(targets.isnan(), 0.0, entries).mean(1)


def bce(scores: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy, mean over labels."""
    entries = functional.binary_cross_entropy_with_logits(scores, targets.nan_to_num(), reduction="none")
    return over_labels(entries, targets)


def focal_softmax(scores: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return softmax focal loss (Lin 2017): each class term of CE times (1 - p)^gamma."""
    log_p = scores.log_softmax(1)
    return -(targets * _power(1 - log_p.exp(), gamma) * log_p).sum(1)


def focal_sigmoid(scores: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return sigmoid focal loss (Lin 2017), mean over labels."""
    p, known = scores.sigmoid(), targets.nan_to_num()
    positive = known * _power(1 - p, gamma) * functional.logsigmoid(scores)
    negative = (1 - known) * _power(p, gamma) * functional.logsigmoid(-scores)
    return over_labels(-(positive + negative), targets)


def asymmetric(
    scores: Tensor, targets: Tensor, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05
) -> Tensor:
    """Return asymmetric loss (Ridnik 2021), mean over labels: focal with a power of its own for each side.

    The probability of a negative is lowered by `clip` first, so that negatives easier than that weigh nothing.
    """
    p, known = scores.sigmoid(), targets.nan_to_num()
    low = (p - clip).clamp(min=0)
    # log(1 - p) that stays exact for sure negatives; clipping needs the plain logarithm.
    absent = (1 - low).log() if clip else functional.logsigmoid(-scores)
    positive = known * _power(1 - p, gamma_pos) * functional.logsigmoid(scores)
    negative = (1 - known) * _power(low, gamma_neg) * absent
    return over_labels(-(positive + negative), targets)


def _power(share: Tensor, gamma: float) -> Tensor:
    """Return share^gamma; at 0 its slope is infinite where gamma < 1, and the gradient would be NaN."""
    return share.clamp(min=1e-6).pow(gamma) if gamma < 1 else share.pow(gamma)


def mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Return squared error in standardised units, mean over targets."""
    return over_labels((scores - targets.nan_to_num()).square(), targets)


def huber(scores: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Return Huber loss (1964) in standardised units: quadratic within `delta`, linear beyond."""
    entries = functional.huber_loss(scores, targets.nan_to_num(), reduction="none", delta=delta)
    return over_labels(entries, targets)


def log_cosh(scores: Tensor, targets: Tensor) -> Tensor:
    """Return log cosh of the error in standardised units, without overflow: quadratic near 0, then linear."""
    error = (scores - targets.nan_to_num()).abs()
    return over_labels(error + functional.softplus(-2 * error) - math.log(2), targets)


def pinball(scores: Tensor, targets: Tensor, quantile: float = 0.5) -> Tensor:
    """Return the loss whose minimum is a quantile (Koenker and Bassett 1978), in standardised units."""
    error = targets.nan_to_num() - scores
    return over_labels(torch.maximum(quantile * error, (quantile - 1) * error), targets)


EXCLUSIVE: dict[str, Callable[..., Tensor]] = {"ce": ce, "focal": focal_softmax}
INDEPENDENT: dict[str, Callable[..., Tensor]] = {"bce": bce, "focal": focal_sigmoid, "asymmetric": asymmetric}
REAL: dict[str, Callable[..., Tensor]] = {"mse": mse, "huber": huber, "log_cosh": log_cosh, "quantile": pinball}
OPTIONS = {
    "focal": ("gamma",),
    "asymmetric": ("gamma_neg", "gamma_pos", "clip"),
    "huber": ("delta",),
    "quantile": ("quantile",),
}

# Heads with a score for a value, in units of the training rows' standard deviation.
VALUED = ("regression", "both", "all")


def losses_for(task: Task, head: str) -> dict[str, Callable[..., Tensor]]:
    """Return the losses that fit a head; the first is the default (heads of several parts choose that of the value)."""
    if head in VALUED:
        return REAL
    return INDEPENDENT if head == "cumulative" or task.name in ("binary", "multilabel") else EXCLUSIVE


def class_weights(targets: Tensor) -> Tensor:
    """Return inverse-frequency weights N / (C n_c) of classes (N C one-hot); an absent class gets 0."""
    counts = targets.sum(0)
    return torch.where(counts > 0, len(targets) / (len(counts) * counts.clamp(min=1)), torch.zeros_like(counts))


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """Return weights 1 / effective number of samples, (1 - beta^n) / (1 - beta) (Cui 2019), of counts (classes last).

    Their mean over the rows is 1; a class without any gets 0. From beta = 0 to 1 they go from none to inverse ones.
    """
    counts = counts.double()
    each = torch.where(counts > 0, (1 - beta) / (1 - beta ** counts.clamp(min=1)), 0.0)
    return (each * counts.sum(-1, keepdim=True) / (each * counts).sum(-1, keepdim=True)).float()


def sides(targets: Tensor) -> Tensor:
    """Return how many entries of each label (N L to L 2) are negative and positive; unknown ones are neither."""
    positive, known = targets.nansum(0), (~targets.isnan()).sum(0)
    return torch.stack([known - positive, positive], 1)


def log_prior(targets: Tensor, independent: bool) -> Tensor:
    """Return the log share of each class (N C, one-hot or soft), or the logit of the share of each label (N L).

    A class that no row has, or that all have, is taken to be one row from it.
    """
    share = targets.double().nanmean(0)
    least = 1 / max(len(targets), 2)
    return (share.clamp(least, 1 - least).logit() if independent else share.clamp(min=least).log()).float()


def entry_weights(targets: Tensor) -> Tensor:
    """Return L x 2 weights of (negative, positive) entries that make both sides weigh the same; absent ones get 0."""
    positive = targets.nanmean(0)
    shares = torch.stack([1 - positive, positive], 1)
    return torch.where(shares > 0, 0.5 / shares, torch.zeros_like(shares))
