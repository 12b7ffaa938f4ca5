"""Losses: `(scores N D, targets N D) -> N`, one number a sample; the engine takes the mean, once.

Class targets are soft (one-hot, mixed or smoothed), so that mixup, cutmix and label smoothing share every loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]


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


def ce_and(regression: Loss, scores: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy on all columns but the last, plus a regression loss on the last with the same weight."""
    weight = targets[:, :-1].sum(1)
    return ce(scores[:, :-1], targets[:, :-1]) + weight * regression(scores[:, -1:], targets[:, -1:])


EXCLUSIVE: dict[str, Callable[..., Tensor]] = {"ce": ce, "focal": focal_softmax}
INDEPENDENT: dict[str, Callable[..., Tensor]] = {"bce": bce, "focal": focal_sigmoid}
REAL: dict[str, Callable[..., Tensor]] = {"mse": mse, "huber": huber}


def losses_for(task: Task, head: str) -> dict[str, Callable[..., Tensor]]:
    """Return the losses that fit a head; the first is the default (head `both` adds its choice to cross-entropy)."""
    if head != "classification":
        return REAL
    return INDEPENDENT if task.name in ("binary", "multilabel") else EXCLUSIVE


class Objective:
    """Turn targets into what the head is compared with, and compare: `loss(scores, encode(y))` is N numbers.

    Class weights and the standardisation of values come from the training rows of the fold (`y`), never from others.
    """

    def __init__(
        self,
        task: Task,
        head: str,
        classes: int,
        y: Array,
        *,
        name: str = "auto",
        smoothing: float = 0.0,
        class_weight: str = "none",
        gamma: float = 2.0,
        delta: float = 1.0,
        temperature: float = 1.0,
        alpha: float = 0.0,
    ) -> None:
        self.task, self.head, self.classes, self.smoothing = task, head, classes, smoothing
        table = losses_for(task, head)
        function = resolve(table, next(iter(table)) if name == "auto" else name, f"loss for a {head} head")
        options = {"gamma": gamma} if name == "focal" else {"delta": delta} if name == "huber" else {}
        loss = partial(function, **options)
        self.function: Loss = partial(ce_and, loss) if head == "both" else loss
        self.temperature, self.alpha = temperature, alpha
        values = y.astype(np.float64).reshape(len(y), -1)
        self.center = torch.tensor(np.nanmean(values, 0), dtype=torch.float32)
        self.spread = torch.tensor(np.maximum(np.nanstd(values, 0), 1e-6), dtype=torch.float32)
        if head == "regression" and (smoothing or class_weight != "none"):
            raise UserError("loss.smoothing and loss.class_weight need classes; the head is a regression")
        self.independent = table is INDEPENDENT
        self.weights: Tensor | None = None
        if class_weight == "inverse":
            plain = self._classes(y)
            self.weights = entry_weights(plain) if self.independent else class_weights(plain)

    def _classes(self, y: Array) -> Tensor:
        targets = torch.as_tensor(y)
        if self.independent:
            return targets.float().reshape(len(y), -1)
        if targets.ndim == 2:
            return targets.float()  # soft classes
        return functional.one_hot(targets.long(), self.classes).float()

    def encode(self, y: Array) -> Tensor:
        """Return float targets N D in the columns of the head."""
        values = torch.as_tensor(y, dtype=torch.float32).reshape(len(y), -1)
        return self._columns(self._classes(y) if self.head != "regression" else values, values, self.smoothing)

    def encode_prediction(self, prediction: Array) -> Tensor:
        """Return float targets N D that say what a prediction (N P) says; NaN (unknown) stays NaN."""
        return self._columns(*self._shares(prediction), self.smoothing)

    def _shares(self, prediction: Array) -> tuple[Tensor, Tensor]:
        values = torch.as_tensor(prediction, dtype=torch.float32)
        if self.task.name != "ordinal" or self.head == "regression":
            return values, values
        # A grade between two classes is shared by them, so that its expectation stays.
        grade = values.clamp(0, self.classes - 1)
        return (1 - (grade - torch.arange(self.classes)).abs()).clamp(min=0), values

    def _columns(self, classes: Tensor, values: Tensor, smoothing: float) -> Tensor:
        parts = []
        if self.head != "regression":
            even = 0.5 if self.independent else 1 / self.classes
            parts.append(classes * (1 - smoothing) + smoothing * even)
        if self.head != "classification":
            parts.append((values - self.center) / self.spread)
        return torch.cat(parts, 1)

    def soften(self, prediction: Array) -> Tensor:
        """Return a teacher's prediction (N P) as targets N D, its classes at the temperature of distillation.

        They are never smoothed: what a sure teacher thinks of the wrong classes is what there is to learn.
        """
        targets = self._columns(*self._shares(prediction), 0.0)
        if self.head == "regression":
            return targets
        if self.independent:
            return (targets.logit(1e-6) / self.temperature).sigmoid()
        classes = targets[:, : self.classes].clamp(min=1e-6).log() / self.temperature
        return torch.cat([classes.softmax(1), targets[:, self.classes :]], 1)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N).

        `targets` N D of `encode`; with distillation N 2D, the other half of `soften`, and the loss is
        (1 - alpha) loss + alpha T^2 (cross-entropy with the teacher at T), Hinton 2015; values have no temperature.
        """
        scores = scores.float()
        if targets.shape[1] == scores.shape[1]:
            return self._plain(scores, targets)
        own, teacher = targets.chunk(2, 1)
        return (1 - self.alpha) * self._plain(scores, own) + self.alpha * self._follow(scores, teacher)

    def _follow(self, scores: Tensor, teacher: Tensor) -> Tensor:
        if self.head == "regression":
            return self.function(scores, teacher)
        t, c = self.temperature, self.classes
        if self.independent:
            return t**2 * bce(scores / t, teacher)
        tail = mse(scores[:, c:], teacher[:, c:]) if self.head == "both" else 0.0
        return t**2 * ce(scores[:, :c] / t, teacher[:, :c]) + tail

    def _plain(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self.weights is None:
            return self.function(scores, targets)
        weights = self.weights.to(scores.device)
        # Each class term has the weight of its class, as in torch, so that soft targets stay a mean of hard ones.
        if self.independent:
            flat, known = scores.reshape(-1, 1), targets.nan_to_num()
            no, yes = (self.function(flat, torch.full_like(flat, side)).view_as(scores) for side in (0.0, 1.0))
            return over_labels(known * weights[:, 1] * yes + (1 - known) * weights[:, 0] * no, targets)
        return self.function(scores, torch.cat([targets[:, : self.classes] * weights, targets[:, self.classes :]], 1))


def class_weights(targets: Tensor) -> Tensor:
    """Return inverse-frequency weights N / (C n_c) of classes (N C one-hot); an absent class gets 0."""
    counts = targets.sum(0)
    return torch.where(counts > 0, len(targets) / (len(counts) * counts.clamp(min=1)), torch.zeros_like(counts))


def entry_weights(targets: Tensor) -> Tensor:
    """Return L x 2 weights of (negative, positive) entries that make both sides weigh the same; absent ones get 0."""
    positive = targets.nanmean(0)
    shares = torch.stack([1 - positive, positive], 1)
    return torch.where(shares > 0, 0.5 / shares, torch.zeros_like(shares))
