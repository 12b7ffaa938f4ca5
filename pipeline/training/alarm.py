"""The alarm of a training whose masks have all become empty; it stands where other tasks keep their data maps."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from pipeline.nets.mask_objective import Heads
from pipeline.store.files import Array

log = logging.getLogger(__name__)
# A stray pixel is no mask: this share of the pixels that are masks is nothing.
STRAY = 0.01


class Alarm:
    """Count what is drawn and what is predicted, and warn once where every prediction is empty though masks are not.

    `coverage` (N) is the share of each labelled row's image that is mask; `rows` are those of an epoch. It speaks after
    two epochs of images with next to no pixel above a half: a Lovasz hinge alone from the start does so for good.
    """

    def __init__(
        self, heads: Heads, size: tuple[int, int], exclusive: bool, coverage: Array, rows: int, title: str
    ) -> None:
        self.heads, self.size, self.exclusive, self.title, self.rows = heads, size, exclusive, title, rows
        self.coverage = torch.as_tensor(coverage, dtype=torch.float32)
        self.drawn = torch.zeros(len(coverage))
        # Images with a mask since the last pixel that was predicted; whether the warning was given.
        self.barren = torch.zeros(2)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"drawn": self.drawn, "barren": self.barren}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the counts again."""
        self.drawn, self.barren = state["drawn"], state["barren"]

    @torch.no_grad()
    def see(self, rows: Tensor, scores: Tensor) -> None:
        """Take notice of the scores (N D) of some rows; rows beyond the labelled ones are passed over."""
        known = rows[rows < len(self.drawn)]
        self.drawn.index_add_(0, known, torch.ones(len(known)))
        full = int((self.coverage[known] > 0).sum())
        if self.barren[1] or not full:
            return
        some = self._share(scores) > STRAY * float(self.coverage[known].mean())
        self.barren[0] = 0 if some else self.barren[0] + full
        masks = self.coverage > 0
        if self.barren[0] >= 2 * self.rows * masks.float().mean():
            self.barren[1] = 1
            log.warning(
                "warning: %s predicts empty masks alone, for two epochs, though %d of %d images have a mask: begin "
                'with another loss (loss.terms = {bce = 1.0}, then loss.then = {at = 0.5, terms = {lovasz = 1.0}}), '
                "lower optim.lr, or draw more masks (sampling.non_empty = [0.8, 0.5])",
                self.title, int(masks.sum()), len(masks),
            )  # fmt: skip

    def _share(self, scores: Tensor) -> float:
        """Return the share of pixels with a class: by its sign, or of exclusive classes another than the first."""
        maps = self.heads.split(scores, *self.size)[0][:, : self.heads.classes]
        return float((maps.argmax(1) > 0 if self.exclusive else (maps > 0).any(1)).float().mean())

    def table(self) -> Array:
        """Return how often each row was drawn (N 1, float32), NaN where it never was."""
        return torch.where(self.drawn > 0, self.drawn, torch.nan)[:, None].numpy()
