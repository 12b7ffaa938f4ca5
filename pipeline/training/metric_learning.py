"""Features whose distances tell classes apart: batch-hard triplets, a cosine head with an angular margin, a neck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.nets.losses import Goal

if TYPE_CHECKING:
    from pipeline.training.job import Job


def batch_hard(features: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    """Return the triplet loss (N) of features N F by Euclidean distances within the batch (Hermans 2017).

    Each row against the farthest row of its label and the nearest of another, which is to be nearer than that by
    `margin` (None: softly, log(1 + e^x)); 0 for a row that has no like or no unlike.
    """
    away = torch.cdist(features.float(), features.float(), compute_mode="donot_use_mm_for_euclid_dist")
    other = labels[:, None] != labels
    like = ~other & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    gap = away.masked_fill(~like, -torch.inf).amax(1) - away.masked_fill(~other, torch.inf).amin(1)
    each = functional.softplus(gap) if margin is None else (gap + margin).relu()
    return torch.where(like.any(1) & other.any(1), each, 0.0)


def add_margin(scores: Tensor, targets: Tensor, scale: float, margin: float) -> Tensor:
    """Return scores N C (cosines times `scale`), the angle of the own class widened by `margin` (ArcFace, Deng 2019).

    A soft class (targets N C) is shifted by its share. Where the angle would pass pi the cosine falls by a fixed step
    instead, so that a wrong row keeps a margin and a gradient ("easy margin" gives it none).
    """
    cosine = scores / scale
    # The slope of the root is infinite at |cos| = 1.
    sine = (1 - cosine.square()).clamp(min=1e-6).sqrt()
    wider = cosine * math.cos(margin) - sine * math.sin(margin)
    wider = torch.where(cosine > -math.cos(margin), wider, cosine - margin * math.sin(margin))
    return scores + targets * scale * (wider - cosine)


class Margined:
    """Compare the scores of a cosine head with a margin (see `add_margin`)."""

    def __init__(self, objective: Goal, scale: float, margin: float) -> None:
        self.objective, self.scale, self.margin, self.progress = objective, scale, margin, 0.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N)."""
        return self.objective.loss(add_margin(scores.float(), targets, self.scale, self.margin), targets)


class Tripled:
    """Add the triplet loss of features, the last `width` columns of what a network gives in training.

    The first `columns` of the targets say of which class a row is: the likeliest, of one column whether it is above .5.
    """

    def __init__(self, objective: Goal, width: int, columns: int, weight: float, margin: float | None) -> None:
        self.objective, self.width, self.columns = objective, width, columns
        self.weight, self.margin, self.progress = weight, margin, 0.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N)."""
        told, features = torch.split(scores, [scores.shape[1] - self.width, self.width], 1)
        classes = targets[:, : self.columns]
        labels = classes.argmax(1) if self.columns > 1 else (classes[:, 0] > 0.5).long()
        return self.objective.loss(told, targets) + self.weight * batch_hard(features, labels, self.margin)


def margined(job: Job, objective: Goal) -> Goal:
    """Return the objective of the scores, with the margin that a run asks for."""
    how = job.config.metric_learning
    if how.loss != "arcface":
        return objective
    assert not isinstance(how.margin, str)
    return Margined(objective, how.scale, how.margin)


def tripled(job: Job, goal: Goal, width: int, columns: int) -> Goal:
    """Return the objective of all that a network gives, with the triplets of its features that a run asks for."""
    how = job.config.metric_learning
    if how.loss != "triplet":
        return goal
    return Tripled(goal, width, columns, how.weight, None if isinstance(how.margin, str) else how.margin)
