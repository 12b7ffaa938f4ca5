"""A small U-Net for small images and a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def _convolved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class SmallEncoder(nn.Module):
    """Pairs of convolutions with a 2x2 maximum between them; the features of every level, after the image itself."""

    def __init__(self, in_chans: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.out_channels, self.output_stride = [in_chans, *widths], 2 ** (len(widths) - 1)
        before = [in_chans, *widths]
        self.levels = nn.ModuleList(
            nn.Sequential(_convolved(a, b), _convolved(b, b)) for a, b in zip(before, widths, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the image and the features of each level."""
        features = [x]
        for number, level in enumerate(self.levels):
            features.append(level(functional.max_pool2d(features[-1], 2) if number else x))
        return features


class SmallDecoder(nn.Module):
    """Double the size by the nearest pixel, join what the encoder saw there, convolve: level by level."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolved(deep + skip, skip), _convolved(skip, skip))
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the features of the finest level."""
        x = features[-1]
        for block, skip in zip(self.blocks, features[-2:0:-1], strict=True):
            x = block(torch.cat([functional.interpolate(x, skip.shape[2:]), skip], 1))
        return x


class SmallUNet(nn.Module):
    """A U-Net (Ronneberger 2015) with batch norm, for small images and a CPU; of one level it is no U-Net."""

    def __init__(self, in_chans: int, classes: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        if len(widths) < 2:
            raise TypeError("widths: give two levels or more")
        self.encoder, self.decoder = SmallEncoder(in_chans, widths), SmallDecoder(widths)
        self.segmentation_head = nn.Conv2d(widths[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.segmentation_head.bias)  # type: ignore[arg-type]

    @property
    def supervised(self) -> list[tuple[nn.Module, int]]:
        """Return the blocks before the last, from fine to coarse, and their strides."""
        return [(block, 2 ** (n + 1)) for n, block in enumerate(list(self.decoder.blocks)[-2::-1])]
