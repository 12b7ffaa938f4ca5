"""A fresh network that takes steps as a training does, and what a loss says where nothing is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.nets.losses import Goal
from pipeline.nets.machine import memory_advice
from pipeline.preflight.material import Batch, Material, Net
from pipeline.store.errors import resolve
from pipeline.training.layers import freeze_for, stages_of, thaw
from pipeline.training.optim import OPTIMIZERS, adamw, parameter_groups

# Of Adam on free scores, which have no network in between.
FREE_STEPS, FREE_RATE = 150, 0.5


class Learner:
    """The network of a run and its optimiser; `bare` is AdamW on all layers, without dropout and weight decay."""

    def __init__(self, material: Material, lr: float, bare: bool = False) -> None:
        how = material.job.config.optim
        self.material, self.network = material, material.network()
        if bare:
            without_dropout(self.network)
            optim = adamw(parameter_groups(self.network, 0.0), lr, 0.9)
        else:
            if frozen(material):
                thaw(self.network, stages_of(self.network), 0)
            groups = parameter_groups(self.network, how.weight_decay, how.layer_decay)
            optim = resolve(OPTIMIZERS, how.name, "optimizer")(groups, lr, how.momentum)
        self.optim = material.job.machine.fuse(optim)
        self.scaler = torch.amp.GradScaler(
            material.job.machine.device, enabled=material.job.machine.precision == "fp16"
        )
        self.at(lr)

    def at(self, lr: float) -> None:
        """Set the learning rate."""
        for group in self.optim.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def step(self, batch: Batch) -> float:
        """Take one step down the mean loss of a batch, in the pieces of the config; return that loss."""
        how, total = self.material.job.config.optim, 0.0
        size = -(-len(batch) // how.accumulate)
        with memory_advice(len(batch), how.accumulate, batch.x.permute(0, 2, 3, 1)):
            for start in range(0, len(batch), size):
                loss = loss_of(self.material, self.network, batch.part(slice(start, start + size))).sum() / len(batch)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        self.scaler.unscale_(self.optim)
        if how.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), how.clip)
        self.scaler.step(self.optim)
        self.scaler.update()
        self.optim.zero_grad(set_to_none=True)
        return total


def frozen(material: Material) -> bool:
    """Say whether the head alone trains, through all epochs."""
    job = material.job
    freeze: str = job.config.optim.freeze
    if freeze == "auto":
        freeze = freeze_for(job.task.harden(job.task.targets(material.y)), len(job.table.classes))
    return freeze == "head"


def without_dropout(network: nn.Module) -> None:
    """Turn dropout and stochastic depth off; they must stay so while the rest trains."""
    for module in network.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()


def scores_of(material: Material, network: Net, batch: Batch) -> Tensor:
    """Return raw scores (N D, float32) of a batch, in training with the columns that are learnt beside them."""
    with material.job.machine.autocast():
        scores = network(batch.x, *([batch.meta] if batch.meta.shape[1] else []))
    return scores.float()  # type: ignore[no-any-return]


def loss_of(material: Material, network: Net, batch: Batch) -> Tensor:
    """Return the weighted loss of each row (N)."""
    return material.goal.loss(scores_of(material, network, batch), batch.y) * batch.weights


def ignorant(goal: Goal, batch: Batch, width: int) -> float:
    """Return the loss of scores that are all 0: ln C of C classes, ln 2 of labels, the variance of values."""
    zeros = torch.zeros(len(batch), width, device=batch.x.device)
    return float((goal.loss(zeros, batch.y) * batch.weights).mean())


def free_loss(goal: Goal, batch: Batch, width: int, shared: bool) -> float:
    """Return the least loss that free scores (of no network) come to: of every row its own, or `shared` by all.

    What no network can get below, and what a network comes to that does not look at the image.
    """
    scores = torch.zeros(1 if shared else len(batch), width, device=batch.x.device, requires_grad=True)
    optim, least = torch.optim.Adam([scores], lr=FREE_RATE), float("inf")
    for left in range(FREE_STEPS, 0, -1):
        optim.param_groups[0]["lr"] = FREE_RATE * left / FREE_STEPS
        loss = (goal.loss(scores.expand(len(batch), width), batch.y) * batch.weights).mean()
        least = min(least, float(loss.detach()))
        optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optim.step()
    return least
