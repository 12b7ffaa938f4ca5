"""What a network of masks gives, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.nets.mask_losses import EXCLUSIVE, INDEPENDENT, chances, options_of
from pipeline.store.errors import UserError, nearest, resolve

# A class of which nobody asks whether it is there is there.
SURE = 30.0
# Empty, small, middle, large.
SIZES = 4


@dataclass(frozen=True)
class Heads:
    """What one flat row of scores holds, in order.

    Maps of `classes` and of `extra` further channels (distance), one score a class that it is there at all: what the
    shelf keeps. Then, in training alone, scores of the `sizes` classes of mask size, and maps of the classes at the
    strides `deep`.
    """

    classes: int
    extra: int = 0
    sizes: int = 0
    deep: tuple[int, ...] = ()

    @property
    def maps(self) -> int:
        """Return the number of maps on the shelf."""
        return self.classes + self.extra

    def split(self, scores: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return maps N C+E H W, presence N C, sizes N S, and deep maps N C h w (none of these outside training)."""
        coarse = [(-(-height // stride), -(-width // stride)) for stride in self.deep]
        counts = [self.maps * height * width, self.classes, self.sizes, *(self.classes * h * w for h, w in coarse)]
        if scores.shape[1] < sum(counts):
            counts = counts[:2]
        maps, presence, *rest = torch.split(scores, counts, 1)
        sizes = rest[0] if rest else scores[:, :0]
        deep = [part.reshape(-1, self.classes, h, w) for part, (h, w) in zip(rest[1:], coarse, strict=bool(rest))]
        return maps.reshape(-1, self.maps, height, width), presence, sizes, deep


class MaskObjective:
    """Compare scores N D with masks N M H W (flat): `loss(scores, targets)` is N numbers.

    `terms` are weights of losses by name; from the share `then["at"]` of the epochs on `then["terms"]` take their
    place (`progress` is what the loop says). Terms in `non_empty` count only where a class is in the image. `edges` are
    the two borders between small, middle and large masks (shares of the image), of the training rows.
    """

    def __init__(
        self,
        heads: Heads,
        size: tuple[int, int],
        exclusive: bool,
        edges: Tensor,
        *,
        terms: dict[str, float],
        then: dict[str, Any] | None = None,
        non_empty: list[str] | tuple[str, ...] = (),
        presence: float = 0.0,
        distance: float = 0.0,
        size_classes: float = 0.0,
        deep: float = 0.0,
        **options: Any,
    ) -> None:
        self.heads, self.size, self.exclusive, self.edges = heads, size, exclusive, edges
        self.presence, self.distance, self.size_classes, self.deep = presence, distance, size_classes, deep
        table, self.progress = EXCLUSIVE if exclusive else INDEPENDENT, 0.0
        terms = terms or {next(iter(table)): 1.0}
        self.at: float = then["at"] if then else 1.0
        later: dict[str, float] = then["terms"] if then else {}
        for name in {**terms, **later}:
            resolve(table, name, f"loss of {'exclusive' if exclusive else 'independent'} classes")
        for name in non_empty:
            if name not in {**terms, **later}:
                raise UserError(f"loss.non_empty: {name!r} is no term of the loss; {nearest(name, {**terms, **later})}")
        self.terms, self.later = (
            {
                name: (weight, partial(table[name], **options_of(name, exclusive, options)), name in non_empty)
                for name, weight in chosen.items()
            }
            for chosen in (terms, later)
        )

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a sample (N)."""
        maps, presence, sizes, deep = self.heads.split(scores.float(), *self.size)
        truth = targets.reshape(len(targets), -1, *self.size)
        y = truth[:, : self.heads.classes]
        total = self.of_maps(maps[:, : self.heads.classes], y)
        if self.distance:
            error = maps[:, self.heads.classes :].sigmoid() - truth[:, self.heads.classes :]
            total = total + self.distance * error.square().mean((1, 2, 3))
        if self.presence:
            there = functional.binary_cross_entropy_with_logits(presence, y.amax((2, 3)), reduction="none")
            total = total + self.presence * there.mean(1)
        if self.size_classes and sizes.shape[1]:
            total = total + self.size_classes * functional.cross_entropy(sizes, self.size_of(y), reduction="none")
        if self.deep and deep:
            small = [functional.adaptive_avg_pool2d(y, (part.shape[2], part.shape[3])) for part in deep]
            coarse = [self.of_maps(part, masks) for part, masks in zip(deep, small, strict=True)]
            total = total + self.deep * torch.stack(coarse).mean(0)
        return total

    def of_maps(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the weighted sum of the terms of this part of training (N), each the mean over its classes."""
        there = (y.amax((2, 3)) > 0.5).to(y.dtype)
        total = torch.zeros(len(y), device=y.device)
        for weight, function, only in (self.later if self.progress >= self.at and self.later else self.terms).values():
            each = function(logits, y)
            if only:
                each = each * (there if each.shape[1] == there.shape[1] else there.amax(1, keepdim=True))
            total = total + weight * each.mean(1)
        return total

    def size_of(self, y: Tensor) -> Tensor:
        """Return the class of mask size (N): 0 empty, 1 to 3 by share of the image (exclusive: all but class 0)."""
        share = (1 - y[:, 0] if self.exclusive else y.amax(1)).mean((1, 2))
        # An empty mask is below every edge, so only the others move up by one.
        return torch.bucketize(share, self.edges.to(share)) + (share > 0).long()


def probabilities(heads: Heads, exclusive: bool, scores: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return what the shelf keeps of scores (N D): maps N C+E H W and presence N C, all in 0..1."""
    maps, presence, _, _ = heads.split(scores.float(), height, width)
    classes, extra = torch.split(maps, [heads.classes, heads.extra], 1)
    return torch.cat([chances(classes, exclusive), extra.sigmoid()], 1), presence.sigmoid()
