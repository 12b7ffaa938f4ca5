"""A small CNN of our own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Pairs of 3x3 convolutions with batch norm, a 2x2 maximum between pairs: for small images and no pretraining."""

    def __init__(self, in_chans: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        self.num_features = widths[-1]
        layers: list[nn.Module] = []
        for stage, width in enumerate(widths):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for channels in (in_chans, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            in_chans = width
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the feature map N C h w."""
        return self.layers(x)  # type: ignore[no-any-return]

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the feature map, and those after each pair of convolutions, as timm's networks do."""
        maps = []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return x, [*maps, x]
