"""What is learnt beside the targets and never predicted: auxiliary columns, and the same targets under more dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.nets.losses import Goal, ce
from pipeline.store.files import Array

if TYPE_CHECKING:
    from pipeline.training.job import Job


@dataclass(frozen=True)
class Part:
    """One column: its place in the table, its weight, how many categories it has (0: it is a number)."""

    column: int
    weight: float
    categories: int

    @property
    def width(self) -> int:
        """Return how many scores are about it."""
        return max(self.categories, 1)

    def encode(self, values: Array, gold: Array) -> Tensor:
        """Return targets N W of a column (N): categories one-hot, numbers standardised by the training rows."""
        if self.categories:
            known = np.where(np.isnan(values)[:, None], np.nan, values[:, None] == np.arange(self.categories))
            return torch.tensor(known, dtype=torch.float32)
        mine = values[gold][~np.isnan(values[gold])]
        center, spread = (mine.mean(), max(mine.std(), 1e-6)) if len(mine) else (0.0, 1.0)
        return torch.tensor((values - center) / spread, dtype=torch.float32)[:, None]

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return cross-entropy of categories, squared error of a number (N); 0 where it is unknown."""
        known = targets.nan_to_num()
        each = ce(scores, known) if self.categories else (scores - known).square()[:, 0]
        return torch.where(targets.isnan().any(1), 0.0, each)


def parts_of(job: Job) -> list[Part]:
    """Return the columns that a run learns beside its targets; categories are those of all labelled rows."""
    known, asked, table = job.competition.auxiliary, job.config.loss.auxiliary, job.table
    if known is None or table.auxiliary is None:
        return []
    parts = []
    for column, name in enumerate(known.names):
        if name in asked:
            categories = int(np.nanmax(table.auxiliary[:, column])) + 1 if name in known.categorical else 0
            parts.append(Part(column, asked[name], categories))
    return parts


class Widened:
    """Compare what a network gives in training: scores of the targets, of auxiliary columns, of the targets again.

    The first D columns of scores are the targets', then those of `parts`, then D for each further dropout mask; the
    targets' loss is the mean over the masks (multi-sample dropout, Inoue 2019). Targets: what `objective` takes, then
    those of `parts`.
    """

    def __init__(self, objective: Goal, columns: int, parts: Sequence[Part]) -> None:
        self.objective, self.columns, self.parts = objective, columns, parts
        self.width = sum(part.width for part in parts)
        self.progress = 0.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N)."""
        own, beside = torch.split(targets, [targets.shape[1] - self.width, self.width], 1)
        further = scores.shape[1] - self.columns - self.width
        first, told, more = torch.split(scores.float(), [self.columns, self.width, further], 1)
        masks = [first, *(torch.split(more, self.columns, 1) if further else [])]
        total = torch.stack([self.objective.loss(part, own) for part in masks]).mean(0)
        at = 0
        for part in self.parts:
            where = slice(at, at + part.width)
            total, at = total + part.weight * part.loss(told[:, where], beside[:, where]), where.stop
        return total


def widened(job: Job, objective: Goal, targets: Tensor, rows: Array, gold: Array, columns: int) -> tuple[Goal, Tensor]:
    """Return the objective of training and its targets N D', of some rows of the table; `gold` are trained on."""
    parts = parts_of(job)
    if not parts and job.config.model.dropouts == 1:
        return objective, targets
    known = np.zeros((len(job.table.ids), 0)) if job.table.auxiliary is None else job.table.auxiliary
    learnt = [part.encode(known[rows, part.column], gold) for part in parts]
    return Widened(objective, columns, parts), torch.cat([targets, *learnt], 1)
