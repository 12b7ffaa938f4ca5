"""The first loss, and whether scores are what the loss takes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pipeline.nets.last import Cosine
from pipeline.nets.losses import VALUED
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding, judged
from pipeline.preflight.learner import ignorant, scores_of, without_dropout
from pipeline.preflight.material import Batch, Material, Net

# How many times the head's weights.
TIMES = 50.0
# Of six networks for five tasks, 6 to 20 seeds each, the first loss was .3 to 1.7 times that of not knowing, of squares
# .6 to 3.4 times; with model.pool = "max" up to 5.7 and 38 times, which a training survives. A U-Net that learnt nuclei
# well began at 2.03.
FIRST = (2.5, 10.0)


@torch.no_grad()
def first_loss(material: Material, batch: Batch) -> Finding:
    """Compare the loss before the first step with that of scores that are all 0: ln C, ln 2, the variance."""
    network = material.network()
    without_dropout(network)
    scores = scores_of(material, network, batch)
    seen = float((material.goal.loss(scores, batch.y) * batch.weights).mean())
    blank = ignorant(material.goal, batch, scores.shape[1])
    words = f"{seen:.3f}; scores of 0 have {blank:.3f}"
    dense = material.job.task.dense
    why = "(weights?)" if dense else "(model.pool = 'max'? weights?)"
    advice = f"scores begin too large {why}, or head and loss do not belong together"
    squared = not dense and material.job.head in (*VALUED, "auto")
    return Finding("first loss", judged_first(seen / max(blank, 1e-9), squared), words, advice)


def judged_first(ratio: float, squared: bool) -> str:
    """Return the verdict on the first loss as a share of that of not knowing; of squares their root."""
    return judged(max(ratio, 0.0) ** 0.5 if squared else ratio, *FIRST)


@torch.no_grad()
def head_is_open(material: Material, batch: Batch) -> Finding:
    """Ask whether raw scores leave the network: with weights of the head times k they must be k times as large."""
    one, up, down = (maps_of(material, scaled(material, factor), batch) for factor in (1.0, TIMES, -TIMES))
    if not one.any():
        return Finding("head", LOOK, "all scores are 0: what comes after the head cannot be told")
    gap = max(
        float((many - k * one).norm() / (many.norm() + TIMES * one.norm())) for many, k in ((up, TIMES), (down, -TIMES))
    )
    if gap < 0.05:  # rounding to bfloat16 is below .01
        return Finding("head", OK, f"raw scores, from {one.min():.2g} to {one.max():.2g}")
    name = activation(torch.cat([up, down]))
    if name is None:
        return Finding("head", LOOK, f"scores do not follow the head's weights ({gap:.0%} off)", "what comes after it?")
    advice = "the loss takes raw scores (logits): take the activation out of the network"
    return Finding("head", BROKEN, f"scores have gone through a {name} already", advice)


def activation(scores: Tensor) -> str | None:
    """Return what squashed scores (N C P) look like, None if nothing known."""
    if scores.min() >= 0 and scores.max() <= 1:
        shares = scores.sum(1)
        return "softmax" if scores.shape[1] > 1 and torch.allclose(shares, torch.ones_like(shares)) else "sigmoid"
    if scores.abs().max() <= 1:
        return "tanh"
    return "ReLU" if scores.min() >= 0 else None


def scaled(material: Material, factor: float) -> Net:
    """Return the network with weights and biases of its head times a factor; of cosines what they are multiplied by."""
    network = copy.deepcopy(material.network())
    without_dropout(network)
    if isinstance(network.head, Cosine):  # their size does not change with that of the weights
        network.head.scale *= factor
        return network
    for parameter in network.head.parameters():
        parameter.mul_(factor)
    return network


def maps_of(material: Material, network: Net, batch: Batch) -> Tensor:
    """Return raw scores of classes N C P, P = 1 but for masks."""
    scores = scores_of(material, network, batch)
    if isinstance(network, MaskNetwork):
        maps = network.heads.split(scores, *batch.x.shape[2:])[0]
        return maps.flatten(2)
    return scores[:, : network.head.out_features, None]
