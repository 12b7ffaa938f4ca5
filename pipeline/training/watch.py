"""What a model thought of each training row while it learnt it: data maps, AUM and forgetting, at no extra cost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.nets.models import to_prediction
from pipeline.store.files import Array
from pipeline.tasks import Piece, Several, Task


class Watch:
    """Sums over the epochs of each row's training-time scores (augmented views; with mixup, mixed ones).

    `table` is N x (P + 3): the mean prediction; then of the probability of the truth its sd over epochs (Swayamdipta
    2020), the mean margin (AUM, Pleiss 2020: the true score minus the largest other; for labels the signed score, mean
    over labels; for values minus the error in training standard deviations), and how often a right row became wrong
    (forgetting, Toneva 2019). Rows that were never trained on are NaN; unknown labels and values are passed over.
    """

    def __init__(
        self, task: Task, head: str, y: Array, width: int, center: Tensor, spread: Tensor, columns: int | None = None
    ) -> None:
        self.columns = columns  # of the head: what a network gives beyond them in training is no concern of ours
        self.task, self.head, self.center, self.spread, self.width = task, head, center, spread, width
        self.y = torch.as_tensor(y)
        # Sums of: predictions, p of the truth, its square, margin; then times forgotten, right before, times seen.
        self.sums = torch.zeros(len(y), width + 6, dtype=torch.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the sums again."""
        self.sums = state["sums"]

    @torch.no_grad()
    def see(self, rows: Tensor, scores: Tensor) -> None:
        """Take notice of the scores (N D) of some rows; rows beyond the labelled ones are passed over."""
        known = rows < len(self.y)
        if not known.any():
            return
        device = scores.device
        if not known.all():  # a choice on the device would make the processor wait for it
            rows, scores = rows[known], scores[known.to(device)]
        rows, scores = rows.to(device, non_blocking=True), scores[:, : self.columns].float()
        if self.sums.device != device:
            self.sums, self.y = self.sums.to(device), self.y.to(device)
            self.center, self.spread = self.center.to(device), self.spread.to(device)
        y = self.y[rows]
        prediction = to_prediction(self.task, self.head, scores[:, : self._columns(scores)], self.center, self.spread)
        truth, margin, right = self._judge(y, scores, prediction)
        forgotten = (self.sums[rows, -2] > 0) & ~right
        seen = torch.stack([truth, truth**2, margin, forgotten.float()], 1)
        ones = torch.ones(len(rows), 1, device=device)
        self.sums[rows, -2] = right.double()
        change = torch.cat([prediction, seen, torch.zeros_like(ones), ones], 1)
        self.sums.index_add_(0, rows, change.double())

    def _columns(self, scores: Tensor) -> int:
        """Return how many scores stand for real classes: an indicator class has one more (see `Objective`)."""
        return self.width if self.task.name == "multiclass" else scores.shape[1]

    def _judge(self, y: Tensor, scores: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the probability of the truth, the margin, and whether the row is right; of several targets the mean
        of both, and whether all are right.
        """
        if isinstance(self.task, Several):
            each = [
                self._alone(piece)._judge(y[:, piece.y], scores[:, piece.p], prediction[:, piece.p])
                for piece in self.task.pieces
            ]
            truth, margin, right = (torch.stack(told) for told in zip(*each, strict=True))
            return truth.float().mean(0), margin.float().mean(0), right.all(0)
        if self.task.name == "multiclass":
            at = y.long().reshape(len(y), 1)
            true = scores.gather(1, at)[:, 0]
            others = scores.scatter(1, at, -torch.inf).amax(1)
            return scores.softmax(1).gather(1, at)[:, 0], true - others, true > others
        wide = y.reshape(len(y), -1)
        known = ~wide.isnan()
        if self.task.probabilities:
            side = 2.0 * wide - 1
            truth = torch.where(wide == 1, prediction, 1 - prediction) + 0 * side
            return over_known(truth), over_known(side * scores), (~known | (side * scores > 0)).all(1)
        error = (prediction - wide).abs()
        right = error[:, 0] < 0.5 if self.task.cuts else (~known | (error < self.spread)).all(1)
        error = over_known(error / self.spread)
        return (-error).exp(), -error, right

    def _alone(self, piece: Piece) -> Watch:
        """Return a watch of one of several targets, to judge by."""
        center, spread = self.center[piece.p], self.spread[piece.p]
        return Watch(piece.task, piece.task.heads[0], np.zeros((0, 1)), piece.task.width(piece.classes), center, spread)

    def table(self) -> Array:
        """Return the statistics of every row, N x (P + 3), float32."""
        sums = self.sums.cpu()
        count = sums[:, -1:]
        mean = sums[:, : self.width + 3] / count
        variance = (mean[:, self.width + 1] - mean[:, self.width] ** 2).clamp(min=0)
        parts = [
            mean[:, : self.width],
            variance.sqrt()[:, None],
            mean[:, self.width + 2 :],
            sums[:, -3:-2] + 0 * mean[:, :1],
        ]
        return torch.cat(parts, 1).float().numpy()


def over_known(entries: Tensor) -> Tensor:
    """Return the mean (N,) of entries (N L) over the known ones."""
    return entries.nanmean(1) if entries.isnan().any() else entries.mean(1)
