"""Can the network learn a few images by heart? If not, something between them and the loss is wrong."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.nets.mask_objective import MaskObjective, probabilities
from pipeline.nets.models import to_prediction
from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding
from pipeline.preflight.learner import Learner, free_loss, scores_of
from pipeline.preflight.material import Batch, Material
from pipeline.store.files import Array
from pipeline.tasks import Several, Task

ROWS, ROWS_OF_MASKS, STEPS, RATE = 32, 8, 200, 2e-3
# What is measured, how much of it is enough, and how much of the way from the loss of not looking to the least there
# is must be gone: with scores through a softmax it is .37 of 10 classes and .55 of 2, however right they are. Soft Dice
# and its kind come down long after the masks are right: they had gone .22 of it at a Dice of .995.
ENOUGH = {"regression": ("R2", 0.9, 0.7), "segmentation": ("Dice", 0.9, 0.0)}
CLASSES = ("accuracy", 0.99, 0.7)
ADVICE = "a few images cannot be learnt by heart: look at the head, the loss, the targets and the pixels"


def chosen(material: Material, count: int) -> Array:
    """Return `count` training rows, the strata (classes, bins of values, sizes of masks) in turn."""
    job, rng = material.job, np.random.default_rng(material.seed)
    rows = material.sample(2000)
    strata = job.task.strata(job.task.targets(job.table.y[material.places[rows]]), 5)
    order = rng.permutation(len(rows))
    rank = np.zeros(len(rows), int)
    for column in strata.T:
        mine = order[column[order] == 1]
        rank[mine] = np.arange(len(mine))
    return np.sort(rows[order[np.argsort(rank[order], kind="stable")][:count]])


def overfit(material: Material, steps: int = STEPS) -> Finding:
    """Learn a few rows by heart: no augmentation, mixing, dropout or decay, and no optimiser that may be wrong."""
    most = max(material.job.batch_size, ROWS_OF_MASKS)  # more may not fit
    batch = material.batch(chosen(material, ROWS_OF_MASKS if material.masks else min(ROWS, most)))
    learner, curve = Learner(material, RATE, bare=True), list[tuple[float, float]]()
    with torch.no_grad():
        width = scores_of(material, learner.network, batch).shape[1]
    least, blind = (free_loss(material.goal, batch, width, shared) for shared in (False, True))
    what, enough, far = ENOUGH.get(material.job.task.name, CLASSES)
    down = score = 0.0
    for step in range(steps):
        curve.append((step, learner.step(batch)))
        down = (blind - curve[-1][1]) / max(blind - least, 1e-9)
        if not math.isfinite(down) or (down >= far and (score := by_heart(material, learner, batch)) >= enough):
            break
    score = by_heart(material, learner, batch)
    words = f"{len(batch)} rows in {len(curve)} steps: {what} {score:.3f}, loss {curve[-1][1]:.3f}"
    words += f" ({blind:.3f} without looking, {least:.3f} at best)"
    verdict = judged_overfit(down - far, score - enough, len(curve) < STEPS)
    return Finding("overfit", verdict, words, ADVICE, curve, ("step", "loss"))


def judged_overfit(down: float, score: float, short: bool) -> str:
    """Return the verdict on what the way down and the score are above what is enough; `short` of time is no proof."""
    if not math.isfinite(down):
        return BROKEN
    return OK if min(down, score) >= 0 else LOOK if short or min(down, score) > -0.1 else BROKEN


def by_heart(material: Material, learner: Learner, batch: Batch) -> float:
    """Return how well the network knows a batch in training mode: accuracy, R2 (the worst of several), Dice."""
    with torch.no_grad():
        scores = scores_of(material, learner.network, batch).cpu()
    job, objective = material.job, material.objective
    if isinstance(objective, MaskObjective):
        return dice(objective, scores, batch.y.cpu())
    own = scores[:, : learner.network.head.out_features]
    prediction = to_prediction(job.task, job.head, own, objective.center, objective.spread).numpy()
    return known(job.task, job.task.targets(job.table.y[material.places[batch.rows]]), prediction)


def known(task: Task, y: Array, prediction: Array) -> float:
    """Return the share of labels that predictions (N P) have right, R2 of values, the least of several targets."""
    if isinstance(task, Several):
        return min(known(piece.task, piece.of(y), prediction[:, piece.p]) for piece in task.pieces)
    if task.name == "regression":
        error, spread = np.nanmean((prediction - y) ** 2, 0), np.nanvar(y, 0)
        return float(1 - np.nanmax(error / np.maximum(spread, 1e-12)))
    classes = prediction.shape[1] if task.name != "ordinal" else int(y.max()) + 1
    said, truth = task.decide(prediction, task.default_cuts(classes)), task.harden(y)
    said = said.reshape(truth.shape)
    return float((said == truth)[~np.isnan(truth)].mean())


def dice(objective: MaskObjective, scores: Tensor, y: Tensor) -> float:
    """Return the Dice of all masks of a batch together; of exclusive classes all but the background."""
    heads, (height, width) = objective.heads, objective.size
    maps = probabilities(heads, objective.exclusive, scores, height, width)[0][:, : heads.classes]
    truth = y.reshape(len(y), -1, height, width)[:, : heads.classes] > 0.5
    said = (
        functional.one_hot(maps.argmax(1), heads.classes).permute(0, 3, 1, 2) > 0 if objective.exclusive else maps > 0.5
    )
    if objective.exclusive:
        said, truth = said[:, 1:], truth[:, 1:]
    both, all_ = (said & truth).sum(), said.sum() + truth.sum()
    return float(2 * both / all_) if all_ else 1.0
