"""What is changed in a backbone, or taken from inside it: activations, stochastic depth, maps of several stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.store.errors import UserError, resolve

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
# What stands between layers, torch's and timm's; a sigmoid is a gate, and stays.
REPLACED = {"relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "gelutanh", "quickgelu", "silu"}
REPLACED |= {"swish", "mish", "hardmish", "hardswish"}


def set_activation(net: nn.Module, name: str, model: str) -> None:
    """Put another activation in the place of every one of a network (own: leave them)."""
    if name == "own":
        return
    make = resolve(ACTIVATIONS, name, "model.act")
    places = [
        (parent, place)
        for parent in net.modules()
        for place, child in parent._modules.items()
        if type(child).__name__.lower() in REPLACED
    ]
    if not places:
        raise UserError(f'model.act = "{name}": {model!r} has no activation that can be replaced: set it to "own"')
    for parent, place in places:
        setattr(parent, place, make())


def with_drop_path(build: Callable[[dict[str, Any]], Any], options: dict[str, Any], rate: float, model: str) -> Any:
    """Build a network whose residual branches are dropped, the last one at a rate (stochastic depth, Huang 2016)."""
    if not rate:
        return build(options)
    lacking = UserError(f"model.drop_path: {model!r} has no residual blocks that can be dropped: set it to 0")
    try:
        net = build({**options, "drop_path_rate": rate})
    except UserError as error:
        raise lacking if "drop_path_rate" in str(error) else error from error
    if not any(type(module).__name__ == "DropPath" and module.drop_prob for module in net.modules()):
        raise lacking
    return net


def as_map(backbone: Any, maps: Tensor) -> Tensor:
    """Return what a backbone gives as N F ...: without tokens that are not of the image, channels second."""
    if maps.ndim == 3:  # tokens N T F
        return maps[:, getattr(backbone, "num_prefix_tokens", 0) :].transpose(1, 2)
    return maps if maps.shape[1] == backbone.num_features else maps.permute(0, 3, 1, 2)  # channels last, as Swin's


def levels(backbone: Any, x: Tensor) -> list[Tensor]:
    """Return the maps (N F h w) of the last four stages of a backbone, or as many as it has; the last is its own."""
    if not hasattr(backbone, "forward_intermediates"):
        raise UserError(f'model.multiscale: {type(backbone).__name__} has no maps of its stages: set it to "none"')
    last, maps = backbone.forward_intermediates(x)
    return [*maps[-4:-1], as_map(backbone, last)]


class Scales(nn.Module):
    """Join pooled features of several stages (N F_i); `unit`: each of a length that is learnt (ParseNet, Liu 2015).

    Without it the stage with the largest activations has the say (hypercolumns, Hariharan 2015).
    """

    def __init__(self, count: int, unit: bool) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.full((count,), 10.0)) if unit else None

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """Return N F."""
        if self.length is None:
            return torch.cat(list(pooled), 1)
        pairs = zip(pooled, self.length, strict=True)
        return torch.cat([functional.normalize(part, dim=1) * length for part, length in pairs], 1)
