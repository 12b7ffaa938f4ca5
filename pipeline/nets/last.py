"""The last layer of a network, plain or cosine, and the neck before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Cosine(nn.Linear):
    """Score features N F by their cosine with each class, times a scale; in float32, as half of it rounds to 1/256."""

    def __init__(self, width: int, outputs: int, scale: float) -> None:
        super().__init__(width, outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return N D."""
        with torch.autocast(x.device.type, enabled=False):
            cosine = functional.normalize(x.float(), dim=1) @ functional.normalize(self.weight, dim=1).T
            return self.scale * cosine + self.bias


def fresh_head(width: int, outputs: int, bias: bool = True, scale: float = 0.0) -> nn.Linear:
    """Return a linear layer, or a cosine one (`scale` above 0), with Kaiming's weights (He 2015) and no bias yet.

    Where none is learnt zeros stand in its place: what is taken from the scores after training is put there.
    """
    head = Cosine(width, outputs, scale) if scale else nn.Linear(width, outputs)
    nn.init.kaiming_normal_(head.weight, nonlinearity="relu")
    nn.init.zeros_(head.bias)
    if not bias:
        del head.bias
        head.register_buffer("bias", torch.zeros(outputs), persistent=False)
    return head


def fresh_neck(width: int) -> nn.BatchNorm1d:
    """Return a batch norm whose shift stays 0, so that classes are told by the direction of features (Luo 2019)."""
    neck = nn.BatchNorm1d(width)
    neck.bias.requires_grad_(False)
    return neck
