"""Filters on small maps as one matrix product: oneDNN takes five times as long for 512 filters on a map of 2 x 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Beyond so many pixels gathering the patches costs more than it saves (128 filters of 8 x 8: twice the time).
SMALL = 16


class Product(nn.Conv2d):
    """A convolution that gathers the patches of a small map (N C H W) and multiplies them with all filters at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Return N D h w, to rounding what the convolution returns."""
        if x.shape[2] * x.shape[3] > SMALL:
            return super().forward(x)
        (tall, wide), (down, across), (above, beside) = self.kernel_size, self.stride, pair(self.padding)
        framed = functional.pad(x.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above))
        h, w = (framed.shape[1] - tall) // down + 1, (framed.shape[2] - wide) // across + 1
        tops, lefts = ([(i, i + step * (n - 1) + 1) for i in range(side)] for side, step, n in
                       ((tall, down, h), (wide, across, w)))  # fmt: skip
        patches = torch.cat([framed[:, a:b:down, c:d:across] for a, b in tops for c, d in lefts], 3)
        out = patches.flatten(0, 2) @ self.weight.permute(0, 2, 3, 1).flatten(1).t()
        out = out.view(len(x), h, w, -1).permute(0, 3, 1, 2)
        return out if self.bias is None else out + self.bias[:, None, None].to(out.dtype)


def pair(padding: str | tuple[int, ...]) -> tuple[int, int]:
    """Return a padding above (and below) and beside a map."""
    assert not isinstance(padding, str)
    return padding[0], padding[1]


def as_products(network: nn.Module, wanted: bool) -> None:
    """Let the plain convolutions of a network be products on small maps, or no longer; weights and names stay."""
    for module in network.modules():
        if type(module) is Product and not wanted:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
        elif type(module) is nn.Conv2d and wanted and _is_plain(module):
            module.__class__ = Product


def _is_plain(conv: nn.Conv2d) -> bool:
    """Say whether a convolution has neither groups nor gaps, and zeros around the map."""
    dense = conv.groups == 1 and conv.dilation == (1, 1)
    return dense and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
