"""How the head of a network starts: its weights, and a bias that says what is usual before anything is learnt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.nets.joint import Joint
from pipeline.nets.losses import VALUED
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.objective import Objective
from pipeline.store.files import Array

# He 2015, Glorot 2010, small random numbers, Saxe 2013.
HEAD_INITS: dict[str, Callable[[Tensor], Any]] = {
    "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "normal": partial(nn.init.normal_, std=0.01),
    "orthogonal": nn.init.orthogonal_,
}


def start_head(head: nn.Module, init: str) -> nn.Module:
    """Draw the weights of the last layer of a head anew ("auto": leave them) and return that layer."""
    layer = [part for part in head.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    if init != "auto":
        HEAD_INITS[init](layer.weight)
    return layer


@torch.no_grad()
def set_bias(layer: Any, bias: Tensor) -> None:
    """Give the first outputs of a layer a bias."""
    layer.bias[: len(bias)] = bias


def prior(objective: Objective, y: Array, weight: Tensor) -> Tensor:
    """Return the scores (D,) that are best for all rows alike, by cross-entropies and squared errors.

    `y` and loss `weight` (N,) are of the training rows. A class has the log of its share, a question the logit of its
    share, under class weights too; a value its mean. A share is kept half a row away from 0 and 1. What the loss adds
    by itself (logit adjustment) is not in them.
    """
    if isinstance(objective, Joint):
        return torch.cat([prior(alone, part, weight) for alone, part in objective.apart(y)])
    targets, c, told = objective.encode(y), objective.classes, 0.0 if objective.shift is None else objective.shift
    scale = torch.ones(()) if objective.weights is None else objective.weights
    if objective.head == "regression":
        return _mean(targets, weight)
    if objective.independent:
        side = torch.ones(1, 2) if objective.weights is None else objective.weights
        return _logit(targets, weight) + side[:, 1].log() - side[:, 0].log() - told
    classes = targets[:, :c] * scale
    share = (classes * weight[:, None]).sum(0)
    parts = [(share / share.sum()).clamp(min=0.5 / len(y)).log()]
    if objective.head in VALUED:  # the weight of a row's class is that of its other columns too
        weight = weight * classes.sum(1)
        parts += [_logit(targets[:, c:-1], weight), _mean(targets[:, -1:], weight)]
    return torch.cat(parts) - told


def _mean(columns: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of each column over its known rows, 0 where none is known."""
    mass = weight[:, None] * ~columns.isnan()
    return (mass * columns.nan_to_num()).sum(0) / mass.sum(0).clamp(min=1e-9)


def _logit(columns: Tensor, weight: Tensor) -> Tensor:
    return _mean(columns, weight).logit(0.5 / len(columns))


def start_masks(network: MaskNetwork, cover: Array, exclusive: bool, init: str, bias: str) -> None:
    """Start the heads of a network of masks; `cover` (N C) is the share of each training image that a class covers."""
    layer = start_head(network.head, init)
    if bias == "zero":
        return
    share, usual = torch.as_tensor(cover, dtype=torch.float32), torch.ones(len(cover))
    least = 1e-4  # a mask of one pixel in ten thousand is not nothing
    covered = _mean(share, usual).clamp(least, 1 - least)
    scores = covered.log() if exclusive else covered.logit()
    for part in (layer, *network.deep):
        set_bias(part, scores)
    if network.presence is not None:
        set_bias(network.presence, _logit((share > 0).float(), usual))
