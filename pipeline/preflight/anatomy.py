"""Facts about a network: parameters, multiply-accumulates, strides, and how far it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.nets.mask_nets import coordinates, hypercolumn
from pipeline.nets.models import Network
from pipeline.nets.trunk import as_map
from pipeline.preflight.findings import LOOK, OK, Finding
from pipeline.preflight.material import Material, Net

NOISE, ENERGY = 4, 0.95
# Of radiographs a network that sees 32 of 72 pixels (.44) scored no worse than one that sees 68 of 96.
NEAR = 0.4


@dataclass(frozen=True)
class Anatomy:
    """Parameters (of them trainable), multiply-adds (`macs`) an image, height and width of it, strides, the `last` map.

    Of a feature in the middle: how many pixels down and across it can see (`reach`), and how many across hold 95 % of
    its gradient (`effective`, Luo 2016).
    """

    parameters: int
    trainable: int
    macs: int
    side: tuple[int, int]
    strides: tuple[int, ...]
    last: tuple[int, int]
    reach: tuple[int, int]
    effective: int


def anatomy(material: Material) -> Anatomy:
    """Measure the network of a run on noise of the size of its images."""
    network = material.network().eval()
    parameters = list(network.parameters())
    side = (material.job.seen[0], material.job.seen[1])
    x = torch.rand(NOISE, network.views * network.mean.shape[1], *side, generator=torch.Generator().manual_seed(0))
    x = x.to(parameters[0].device)
    steps = strides(network, x[:1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x[:1])
    slope, last = middle(network, x[:, : network.mean.shape[1]])
    return Anatomy(
        sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad),
        counter.get_total_flops() // 2, side, steps, last, *seen_from(slope),
    )  # fmt: skip


@torch.no_grad()
def strides(network: Net, x: Tensor) -> tuple[int, ...]:
    """Return by how much the maps of convolutions and pools are smaller than the image, each once, in order."""
    found = list[int]()

    def hook(module: nn.Module, given: Any, out: Tensor) -> None:
        if out.ndim == 4:
            found.append(round(x.shape[2] / out.shape[2]))

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    handles = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, kinds)]
    network(x)
    for handle in handles:
        handle.remove()
    return tuple(dict.fromkeys(found))


def middle(network: Net, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the size of the gradient (H W) of the feature in the middle by normalised pixels, and the map's sides.

    Of masks it is the logit of the pixel in the middle. Noise, in several images, takes every way through the maxima.
    """
    x = (x - x.mean()) / x.std()
    if isinstance(network, Network):
        x.requires_grad_()
        maps = as_map(network.backbone, network.backbone.forward_features(x))
        if maps.ndim == 3:  # a square of tokens
            maps = maps.reshape(*maps.shape[:2], round(maps.shape[2] ** 0.5), -1)
    else:
        x = torch.cat([x, coordinates(x)], 1) if network.extras.coordinates else x
        x.requires_grad_()
        features = network.backbone(x)
        maps = network.decoder(features)
        maps = network.head(hypercolumn(maps, features[1:]) if network.extras.hypercolumn else maps)
    height, width = maps.shape[2:]
    # Signs at random, else what the channels say may cancel out.
    sign = torch.randn(maps.shape[:2], generator=torch.Generator().manual_seed(1)).to(maps.device)
    (slope,) = torch.autograd.grad((maps[:, :, height // 2, width // 2] * sign).sum(), x)
    return slope.abs().mean((0, 1)), (height, width)


def seen_from(slope: Tensor) -> tuple[tuple[int, int], int]:
    """Return how many pixels down and across have a gradient (H W) at all, and how many across hold 95 % of it.

    These are the strongest ones, as the side of a square of as many.
    """
    there = (slope > 0).nonzero()
    if not len(there):
        return (0, 0), 0
    down, across = (there.amax(0) - there.amin(0) + 1).tolist()
    strongest = slope.flatten().sort(descending=True).values.cumsum(0)
    count = int((strongest < ENERGY * strongest[-1]).sum()) + 1
    return (down, across), round(count**0.5)


def facts(material: Material) -> tuple[Finding, Anatomy]:
    """Say what the network is, and whether it sees its images whole."""
    found = anatomy(material)
    reach = "x".join(map(str, found.reach))
    words = f"{found.parameters / 1e6:.2f} M parameters, {found.macs / 1e6:.0f} M multiply-adds an image; "
    words += f"strides {', '.join(map(str, found.strides))}; each feature sees {reach} of "
    words += f"{found.side[0]}x{found.side[1]} pixels ({found.effective} across hold 95 %)"
    if min(found.last) < 2 and max(found.side) > 1:
        advice = "the last map is 1 pixel: a larger image.size, or a network that shrinks less"
        return Finding("network", LOOK, words, advice), found
    if min(a / b for a, b in zip(found.reach, found.side, strict=True)) < NEAR:
        return Finding(
            "network", LOOK, words, "each feature sees a small part of the image: deeper, or a smaller image.size"
        ), found
    return Finding("network", OK, words), found
