"""What a head is compared with, and how: targets in its columns, one loss a sample, distillation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.nets.losses import (
    INDEPENDENT,
    OPTIONS,
    VALUED,
    bce,
    ce,
    class_weights,
    effective_weights,
    entry_weights,
    log_prior,
    losses_for,
    mse,
    over_labels,
    sides,
)
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]


def above(classes: Tensor) -> Tensor:
    """Return of shares of C grades (N C) the shares above each but the last (N C-1)."""
    return classes.flip(1).cumsum(1).flip(1)[:, 1:]


def sum_of_parts(regression: Loss, classes: int, scores: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy on the classes, plus with the same weight a regression loss on the last column.

    And the binary cross-entropy of the cumulative columns between them, where there are any.
    """
    weight = targets[:, :classes].sum(1)
    loss = ce(scores[:, :classes], targets[:, :classes]) + weight * regression(scores[:, -1:], targets[:, -1:])
    if scores.shape[1] == classes + 1:
        return loss
    return loss + weight * bce(scores[:, classes:-1], targets[:, classes:-1])


class Objective:
    """Turn targets into what the head is compared with, and compare: `loss(scores, encode(y))` is N numbers.

    Class weights, log priors and the standardisation of values come from the training rows of the fold (`y`) alone.
    The cumulative head asks of each of C - 1 grades whether the row is above it (Niu 2016), each a question of its own;
    head `both` has classes and a value, head `all` classes, the cumulative questions and a value (Tymchenko 2020).
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
        beta: float = 0.999,
        logit_adjust: float = 0.0,
        temperature: float = 1.0,
        alpha: float = 0.0,
        **options: Any,
    ) -> None:
        self.task, self.head, self.classes, self.smoothing = task, head, classes, smoothing
        self.progress = 0.0  # the share of the epochs that are over, which the loop tells every objective
        table = losses_for(task, head)
        function = resolve(table, next(iter(table)) if name == "auto" else name, f"loss for a {head} head")
        loss = partial(function, **{key: options[key] for key in OPTIONS.get(name, ()) if key in options})
        self.function: Loss = partial(sum_of_parts, loss, classes) if head in ("both", "all") else loss
        self.temperature, self.alpha = temperature, alpha
        values = y.astype(np.float64).reshape(len(y), -1)
        self.center = torch.tensor(np.nanmean(values, 0), dtype=torch.float32)
        self.spread = torch.tensor(np.maximum(np.nanstd(values, 0), 1e-6), dtype=torch.float32)
        if head == "regression" and (smoothing or class_weight != "none" or logit_adjust):
            what = "loss.smoothing, loss.class_weight and loss.logit_adjust"
            raise UserError(f"{what} need classes; the head is a regression")
        self.independent = table is INDEPENDENT
        self.weights: Tensor | None = None
        if class_weight == "inverse":
            plain = self._classes(y)
            self.weights = entry_weights(plain) if self.independent else class_weights(plain)
        elif class_weight == "effective":
            plain = self._classes(y)
            self.weights = effective_weights(sides(plain) if self.independent else plain.sum(0), beta)
        self.shift = logit_adjust * self.log_prior(y) if logit_adjust else None

    def log_prior(self, y: Array) -> Tensor:
        """Return the log prior (D,) of some targets in the columns of the head: logits of questions, 0 of a value."""
        classes = self._classes(y)
        parts = [log_prior(classes, self.independent)]
        if self.head == "all":
            parts.append(log_prior(above(classes), True))
        if self.head in VALUED:
            parts.append(torch.zeros(1))
        return torch.cat(parts)

    def _classes(self, y: Array) -> Tensor:
        targets = torch.as_tensor(y)
        if self.independent and self.head != "cumulative":
            return targets.float().reshape(len(y), -1)
        soft = targets.ndim == 2
        classes = targets.float() if soft else functional.one_hot(targets.long(), self.classes).float()
        return above(classes) if self.head == "cumulative" else classes

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
        shares = (1 - (grade - torch.arange(self.classes)).abs()).clamp(min=0)
        return (above(shares) if self.head == "cumulative" else shares), values

    def _columns(self, classes: Tensor, values: Tensor, smoothing: float) -> Tensor:
        parts = []
        if self.head != "regression":
            even = 0.5 if self.independent else 1 / self.classes
            parts.append(classes * (1 - smoothing) + smoothing * even)
        if self.head == "all":
            parts.append(above(parts[0]))
        if self.head in VALUED:
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
        steps, values = targets[:, self.classes :].tensor_split([-1 if self.head == "all" else 0], 1)
        steps = (steps.logit(1e-6) / self.temperature).sigmoid()
        return torch.cat([classes.softmax(1), steps, values], 1)

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
        tail = mse(scores[:, -1:], teacher[:, -1:]) if self.head in VALUED else 0.0
        tail += t**2 * bce(scores[:, c:-1] / t, teacher[:, c:-1]) if self.head == "all" else 0.0
        return t**2 * ce(scores[:, :c] / t, teacher[:, :c]) + tail

    def _plain(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self.shift is not None:  # what is learnt is what remains when the prior is told (Menon 2021)
            scores = scores + self.shift.to(scores.device)
        if self.weights is None:
            return self.function(scores, targets)
        weights = self.weights.to(scores.device)
        # Each class term has the weight of its class, as in torch, so that soft targets stay a mean of hard ones.
        if self.independent:
            flat, known = scores.reshape(-1, 1), targets.nan_to_num()
            no, yes = (self.function(flat, torch.full_like(flat, side)).view_as(scores) for side in (0.0, 1.0))
            return over_labels(known * weights[:, 1] * yes + (1 - known) * weights[:, 0] * no, targets)
        return self.function(scores, torch.cat([targets[:, : self.classes] * weights, targets[:, self.classes :]], 1))
