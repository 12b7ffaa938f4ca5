"""The objective of several targets: each is compared on its own columns of the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.nets.losses import losses_for
from pipeline.nets.objective import Objective
from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.tasks import Several, Task


class Joint(Objective):
    """Add the losses of several targets, each by its weight in the contract.

    A loss that is named is that of the targets which know it, the others keep their own; smoothing, class weights and
    logit adjustment are for those with classes. Values are standardised by the training rows, as they are alone.
    """

    def __init__(
        self,
        task: Several,
        y: Array,
        *,
        name: str,
        smoothing: float = 0.0,
        class_weight: str = "none",
        logit_adjust: float = 0.0,
        **options: Any,
    ) -> None:
        heads = [piece.task.heads[0] for piece in task.pieces]
        known = [losses_for(piece.task, head) for piece, head in zip(task.pieces, heads, strict=True)]
        if name != "auto":
            resolve({key: loss for table in known for key, loss in table.items()}, name, "loss of several targets")
        self.pieces: list[tuple[slice, float, Objective]] = []
        width = task.pieces[-1].p.stop
        self.center, self.spread = torch.zeros(width), torch.ones(width)
        for piece, head, table in zip(task.pieces, heads, known, strict=True):
            mine: dict[str, Any] = {"name": name if name in table else "auto"}
            if head != "regression" or set(heads) == {"regression"}:  # else nobody takes them, which is refused
                mine |= {"smoothing": smoothing, "class_weight": class_weight, "logit_adjust": logit_adjust}
            alone = Objective(piece.task, head, piece.classes, piece.of(y), **mine, **options)
            self.pieces.append((piece.p, piece.weight, alone))
            if head == "regression":
                self.center[piece.p], self.spread[piece.p] = alone.center, alone.spread
        self.task = task

    def apart(self, y: Array) -> list[tuple[Objective, Array]]:
        """Return the objective of each target with what it is asked."""
        assert isinstance(self.task, Several)
        return [(alone, piece.of(y)) for piece, (_, _, alone) in zip(self.task.pieces, self.pieces, strict=True)]

    def encode(self, y: Array) -> Tensor:
        """Return float targets N D in the columns of the head."""
        return torch.cat([alone.encode(mine) for alone, mine in self.apart(y)], 1)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N)."""
        each = [weight * alone.loss(scores[:, at], targets[:, at]) for at, weight, alone in self.pieces]
        return torch.stack(each).sum(0)


def objective_of(task: Task, head: str, classes: int, y: Array, **options: Any) -> Objective:
    """Return the objective of a task (see `Objective`)."""
    return Joint(task, y, **options) if isinstance(task, Several) else Objective(task, head, classes, y, **options)
