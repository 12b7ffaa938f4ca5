"""Optimisers, learning-rate schedules as functions of progress, and averages of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from pipeline.store.errors import resolve
from pipeline.training.layers import rates

Tensors = tuple[Tensor, ...] | list[Tensor]


def adamw(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019); `momentum` is its first beta."""
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))


def sgd(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def adam(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return Adam (Kingma and Ba 2015): as AdamW, but weight decay is part of the gradient, as in those below."""
    return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999))


def rmsprop(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return RMSprop (Hinton 2012): a step that the mean square of the gradient divides, with momentum."""
    return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)


def adagrad(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return Adagrad (Duchi 2011), whose steps only shrink: it takes rates of about .01, and knows no momentum."""
    return torch.optim.Adagrad(groups, lr=lr)


def adadelta(groups: list[dict[str, object]], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return Adadelta (Zeiler 2012), which finds its own scale: it takes a rate of about 1; `momentum` is its rho."""
    return torch.optim.Adadelta(groups, lr=lr, rho=momentum)


OPTIMIZERS = {
    "adamw": adamw,
    "sgd": sgd,
    "adam": adam,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
}


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, object]]:
    """Split parameters: vectors and scalars (norms, biases) are not decayed; `lr_scale` is a layer's share of the rate.

    With `layer_decay` below 1 every layer below the head has that share of the rate of the one above it.
    """
    scales = rates(network, layer_decay) if layer_decay != 1 else {}
    groups: dict[tuple[float, bool], list[Tensor]] = {} if scales else {(1.0, True): [], (1.0, False): []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if wide else 0.0, "lr_scale": scale}
        for (scale, wide), parameters in groups.items()
    ]


def shrink(l1: float) -> Callable[[torch.optim.Optimizer, Any, Any], None]:
    """Return what, after each step, draws every weight to 0 by `l1` times the rate; vectors are spared.

    The proximal step of an L1 penalty (with SGD the lasso's): weights become exactly 0. It stands beside the gradient,
    as AdamW's weight decay does, so an adaptive optimiser does not divide it.
    """

    @torch.no_grad()
    def after(optim: torch.optim.Optimizer, args: Any, options: Any) -> None:
        for group in optim.param_groups:
            by = l1 * group["lr"]
            for weight in group["params"]:
                if weight.ndim > 1 and weight.grad is not None:
                    weight -= weight.clamp(-by, by)

    return after


def constant(progress: float, warmup: float) -> float:
    """Rise linearly over `warmup`, then stay."""
    return min(1.0, progress / warmup) if warmup else 1.0


def cosine(progress: float, warmup: float) -> float:
    """Rise linearly over `warmup`, then fall to 0 on a half cosine (Loshchilov and Hutter 2017)."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9)))


def onecycle(progress: float, warmup: float) -> float:
    """Rise from 1/25 on a half cosine over `warmup`, fall to 1e-4 on another (Smith 2018)."""
    if progress < warmup:
        return 1 + (1 / 25 - 1) * (1 + math.cos(math.pi * progress / warmup)) / 2
    return 1e-4 + (1 - 1e-4) * cosine((progress - warmup) / max(1 - warmup, 1e-9), 0.0)


def step(progress: float, warmup: float, milestones: Sequence[float] = (0.3, 0.6, 0.9), gamma: float = 0.1) -> float:
    """Rise linearly over `warmup`, then stay, times `gamma` after each milestone (a share of the way)."""
    return constant(progress, warmup) * gamma ** sum(progress > milestone for milestone in milestones)


def polynomial(progress: float, warmup: float, power: float = 1.0) -> float:
    """Rise linearly over `warmup`, then fall to 0 as the share that is left, to a power."""
    if progress < warmup:
        return progress / warmup
    return float(max(1 - (progress - warmup) / max(1 - warmup, 1e-9), 0.0) ** power)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": onecycle,
    "step": step,
    "polynomial": polynomial,
}


def factor(schedule: str, progress: float, warmup: float, swa: float, **options: Any) -> float:
    """Return the share of the peak learning rate at a progress in (0, 1]; a schedule takes the options it names.

    With SWA the schedule falls to a quarter of the peak where averaging begins and stays there, because an average of
    points that no longer move is the last point.
    """
    curve = resolve(SCHEDULES, schedule, "schedule")
    own = {name: value for name, value in options.items() if name in signature(curve).parameters}
    if not swa:
        return curve(progress, warmup, **own)
    return max(curve(min(progress / swa, 1.0), warmup, **own), 0.25 if progress > warmup * swa else 0.0)


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the exponential moving average, with a decay that warms up as min(decay, (1+n)/(10+n))."""

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        now = min(decay, (1 + float(count)) / (10 + float(count)))
        for mean, value in zip(averages, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - now)
            else:
                mean.copy_(value)

    return update


def averaged(network: nn.Module, ema: float, swa: float, soup: int = 0) -> AveragedModel | None:
    """Return the running average that training keeps, None for none.

    EMA averages batch-norm statistics with the weights; SWA (Izmailov 2018) and a soup of the last epochs (uniform,
    Wortsman 2022) compute them afresh at the end.
    """
    if ema:
        return AveragedModel(network, multi_avg_fn=ema_update(ema), use_buffers=True)
    if swa or soup:
        return AveragedModel(network, multi_avg_fn=get_swa_multi_avg_fn())  # type: ignore[no-untyped-call]
    return None
