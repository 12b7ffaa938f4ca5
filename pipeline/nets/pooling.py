"""What comes between a backbone and a head: pooling, views of a row put together, metadata beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised mean over N C H W or N C T (Radenovic 2018): p = 1 is the average, p to infinity the maximum."""

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, x: Tensor) -> Tensor:
        """Pool to N C."""
        return x.float().clamp(min=1e-6).pow(self.p).flatten(2).mean(2).pow(1 / self.p)


def average(x: Tensor) -> Tensor:
    """Pool N C ... to N C by the mean."""
    return x.flatten(2).mean(2)


def maximum(x: Tensor) -> Tensor:
    """Pool N C ... to N C by the maximum."""
    return x.flatten(2).amax(2)


def both(x: Tensor) -> Tensor:
    """Pool N C ... to N 2C: the mean, then the maximum."""
    return torch.cat([average(x), maximum(x)], 1)


POOLS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "avg": lambda: average,
    "max": lambda: maximum,
    "gem": GeM,
    "catavgmax": lambda: both,
}


class Attention(nn.Module):
    """Gated attention over the views of a row (Ilse 2018): N V F, and which views are there (N V), to N F."""

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.weight = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the weighted mean over the views."""
        logits = self.weight(self.value(x).tanh() * self.gate(x).sigmoid())[:, :, 0].float()
        share = logits.masked_fill(~seen, -torch.inf).softmax(1).to(x.dtype)
        return (share[:, :, None] * x).sum(1)  # type: ignore[no-any-return]


def mean_view(x: Tensor, seen: Tensor) -> Tensor:
    """Return the mean over the views that are there: N V F to N F."""
    share = seen.to(x.dtype)
    return (share[:, :, None] * x).sum(1) / share.sum(1, keepdim=True)


AGGREGATES: dict[str, Callable[[int], Callable[[Tensor, Tensor], Tensor]]] = {
    "mean": lambda features: mean_view,
    "attention": Attention,
}


class Beside(nn.Module):
    """Metadata beside an image: standardised by the training rows, the unknown at their mean, one layer, a ReLU."""

    center: Tensor
    spread: Tensor

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(columns, width)
        self.register_buffer("center", torch.zeros(columns))
        self.register_buffer("spread", torch.ones(columns))

    def measure(self, meta: Tensor) -> None:
        """Take mean and sd of the training rows (N M); a column without any stays as it is."""
        known = meta.isfinite()
        count = known.sum(0).clamp(min=1)
        center = meta.nan_to_num().sum(0) / count
        spread = (((meta - center).nan_to_num() ** 2).sum(0) / count).sqrt()
        self.center, self.spread = center.float(), torch.where(spread > 0, spread, 1.0).float()

    def forward(self, meta: Tensor) -> Tensor:
        """Return N x width."""
        return self.layer(((meta - self.center) / self.spread).nan_to_num()).relu()  # type: ignore[no-any-return]
