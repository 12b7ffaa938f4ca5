"""The layers of a network from the image to the head: which of them train, and how fast."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.store.files import Array

Stages = list[list[nn.Parameter]]


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a network that keep statistics."""
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def layers_of(backbone: Any, coarse: bool) -> dict[str, int]:
    """Return the layer of every parameter, counted from the image; `coarse` counts stages instead of blocks.

    timm's models say so themselves; in any other each module with a weight matrix or a filter begins a layer.
    """
    if hasattr(backbone, "group_matcher"):
        from timm.models import group_parameters

        layers = dict[str, int](group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True))
        # What some models keep of their own head (a norm that no feature passes) is no layer.
        last = max(layer for name, layer in layers.items() if not name.startswith("head."))
        return {name: min(layer, last) for name, layer in layers.items()}
    layer, found = -1, dict[str, int]()
    for prefix, module in backbone.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        layer += any(parameter.ndim > 1 for parameter in own.values())
        found |= dict.fromkeys(own, max(layer, 0))
    return found


def rates(network: Any, decay: float) -> dict[str, float]:
    """Return the share of the learning rate of every backbone parameter: decay^d, d layers below the head.

    Layer-wise decay as of BEiT (Bao 2022).
    """
    layers = layers_of(network.backbone, coarse=False)
    head = max(layers.values()) + 1
    return {f"backbone.{name}": decay ** (head - layer) for name, layer in layers.items()}


def stages_of(network: Any) -> Stages:
    """Return the trainable parameters of the stages of a backbone, from the image to the head."""
    stage = layers_of(network.backbone, coarse=True)
    found: Stages = [[] for _ in range(max(stage.values()) + 1)]
    for name, parameter in network.backbone.named_parameters():
        if parameter.requires_grad:
            found[stage[name]].append(parameter)
    return found


def thaw(network: Any, stages: Stages, free: int) -> None:
    """Train the last `free` stages and the head; what is frozen keeps its batch-norm statistics too."""
    for number, stage in enumerate(stages):
        for parameter in stage:
            parameter.requires_grad_(number >= len(stages) - free)
    network.backbone.train(free > 0)
    for module in network.backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.training = False


def free_stages(freeze: str, epoch: int, epochs: int, stages: int) -> int:
    """Return how many stages train in an epoch besides the head.

    `gradual` (Howard and Ruder 2018): none at first, then one more each epoch, or as many as it takes for all of them
    to train through the second half.
    """
    if freeze == "head":
        return 0
    return min(stages, epoch * math.ceil(2 * stages / epochs))


def freeze_for(y: Array, classes: int) -> str:
    """Choose by images per class (of labels: with the label): below 5 the head, up to 20 gradual, beyond that none."""
    images = y.sum() / classes if y.ndim == 2 else len(y) / classes
    return "head" if images < 5 else "gradual" if images <= 20 else "none"
