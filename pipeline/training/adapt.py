"""Batch-norm statistics of the images that are predicted, in the place of those of training (AdaBN, Li 2016)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.images.cache import Rows
from pipeline.images.ragged import Ragged
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.models import Network
from pipeline.store.files import Array
from pipeline.training.inference import ready
from pipeline.training.job import Job
from pipeline.training.layers import norms_of
from pipeline.training.mask_job import look_of
from pipeline.training.mask_predict import predicted
from pipeline.training.patches import cut, patches_of
from pipeline.training.predict import scores

N = TypeVar("N", bound=nn.Module)
ORDER = 0


class Gauge:
    """Let a batch norm go by what passes it, a `share` of it (the rest is of training), and sum it up."""

    def __init__(self, norm: _BatchNorm, share: float) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.norm, self.share = norm, share
        self.before = torch.stack([norm.running_mean, norm.running_var])
        self.sums, self.count = torch.zeros_like(self.before, dtype=torch.float64, device="cpu"), 0

    def __call__(self, norm: nn.Module, seen: tuple[Tensor]) -> None:
        """Look at what is about to be normalised (N C ...)."""
        x = seen[0].detach().float()
        var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        wide = torch.stack([mean, var]).cpu().double()
        self.sums += count * torch.stack([wide[0], wide[1] + wide[0].square()])
        self.count += count
        self._set(torch.stack([mean, var]))

    def settle(self) -> None:
        """Take the statistics of all that has passed."""
        mean, square = self.sums / self.count
        found = torch.stack([mean, (square - mean.square()).clamp(min=0)])
        self._set(found.to(self.before))

    def _set(self, found: Tensor) -> None:
        self.norm.running_mean, self.norm.running_var = torch.lerp(self.before, found.to(self.before), self.share)


def adapted(network: N, share: float, run: Callable[[N], object]) -> N:
    """Return a copy of a network whose batch norms go by a `share` of what they see while it runs, else by training.

    In the one run a layer sees what those before it make of the batch; at the end all batches count as one.
    """
    twin = copy.deepcopy(network).eval()
    gauges = [Gauge(norm, share) for norm in norms_of(twin)]
    hooks = [gauge.norm.register_forward_pre_hook(gauge) for gauge in gauges]
    run(twin)
    for gauge, hook in zip(gauges, hooks, strict=True):
        hook.remove()
        gauge.settle()
    return twin


def share_of(job: Job, images: int) -> float:
    """Return how much so many images count: all, or against a prior of `bn_prior` of training (Schneider 2020)."""
    how = job.config.predict
    return images / (images + (how.bn_prior if how.bn == "blend" else 0)) if how.bn != "off" and images else 0.0


def mixed(rows: Array) -> Array:
    """Return rows in random order, the same every time: a batch of one class would tell of that class."""
    return np.random.default_rng(ORDER).permutation(rows)


def to_rows(job: Job, network: Network, images: Rows, rows: Array) -> Network:
    """Return the network to predict some rows of `images` with: itself, or adapted to them (their labels unknown)."""
    if not (share := share_of(job, len(rows))):
        return network
    images, rows = cut(job, images), patches_of(job, rows)
    most = job.config.predict.batch_size
    size = -(-len(rows) // -(-len(rows) // most))  # even batches: a last one of one image would count as much
    return adapted(network, share, lambda twin: scores(twin, images, mixed(rows), machine=job.machine, batch_size=size))


def ready_for(job: Job, network: Network, images: Rows, rows: Array, same: Network) -> Network:
    """Return the same, ready to predict; `same` is the network itself, ready."""
    fitting = to_rows(job, network, images, rows)
    return same if fitting is network else ready(fitting, job.inference, job.seen)


def to_maps(job: Job, network: MaskNetwork, images: Ragged, rows: Array) -> MaskNetwork:
    """Return the network to predict the masks of some images with: itself, or adapted to them."""
    if not (share := share_of(job, len(rows))):
        return network
    look = replace(look_of(job), tta="none")
    sizes = np.tile(look.size, (len(rows), 1))

    def run(twin: MaskNetwork) -> None:
        for _ in predicted(twin, images, mixed(rows), sizes, look, job.machine):
            pass

    return adapted(network, share, run)
