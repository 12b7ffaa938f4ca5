"""What a run will cost: seconds and memory of an epoch, and of all its models."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.images.ragged import Ragged
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.preflight.findings import OK, Finding
from pipeline.preflight.learner import Learner
from pipeline.preflight.material import Material, Net
from pipeline.training.job import Job
from pipeline.training.mask_job import look_of
from pipeline.training.mask_predict import MASK_TTA, predicted
from pipeline.training.patches import count
from pipeline.training.predict import scores, views_of

TRIAL, WARM, LOOKED_AT = 24, 3, 64
# What images without labels cost, in steps of as many with labels: a look is a third of one. MMT has a second network.
BESIDE = {"none": 0, "target_forward": 1 / 3, "mean_teacher": 4 / 3, "fixmatch": 5 / 3, "mmt": 8 / 3}


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, of a row predicted from one view, of an epoch with its validation, of all models; bytes."""

    step: float
    row: float
    epoch: float
    total: float
    models: int
    memory: int


@dataclass(frozen=True)
class Trial:
    """The first steps at the rate of the config: their losses, the median seconds of one, how far weights moved.

    `moved` is by what share of its size the median layer moves in a step; `network` is the one that took them.
    """

    losses: list[float]
    seconds: float
    moved: float
    network: Net


def trial(material: Material, steps: int = TRIAL) -> Trial:
    """Take some steps at the rate of the config, on batches as a training sees them, waiting for data included."""
    learner, moved = Learner(material, material.job.config.optim.lr), 0.0
    losses, seconds = list[float](), list[float]()
    started = time.perf_counter()
    for _, batch in zip(range(steps), material.stream(), strict=False):
        # In half precision the first steps may be left out, until gradients fit.
        before = matrices(learner.network) if len(losses) < WARM else []
        waited = time.perf_counter() - started
        started = time.perf_counter()
        losses.append(learner.step(batch))
        seconds.append(time.perf_counter() - started + waited)
        moved = max(moved, distance(before, matrices(learner.network))) if before else moved
        started = time.perf_counter()
    return Trial(losses, float(np.median(seconds[WARM:] or seconds)), moved, learner.network)


def matrices(network: nn.Module) -> list[Tensor]:
    """Return copies of the weight matrices and filters that train."""
    return [p.detach().clone() for p in network.parameters() if p.requires_grad and p.ndim > 1]


def distance(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the median of |difference| / |weight| over layers; those that are 0 have no size to compare with."""
    each = [float((b - a).norm() / a.norm()) for a, b in zip(before, after, strict=True) if a.any()]
    return float(np.median(each)) if each else 0.0


def cost_of(material: Material, step: float, network: Net) -> Cost:
    """Return what a run costs in seconds and bytes, of a measured step and of predictions measured here."""
    job = material.job
    config, table = job.config, job.table
    row = seconds_a_row(material, network) * count(job)
    held, seen = len(table.scored) / len(job.folds), len(table.test) + len(table.holdout)
    how, attack = config.semi, config.adversarial
    beside = how.ratio * BESIDE[how.method] + (how.method == "mmt")
    if attack.method != "none":  # one more step with what was moved, and those of pgd to move it
        beside += (1 + (attack.method == "pgd") * attack.steps) * (1 - attack.start)
    epoch = -(-len(material.rows) // job.batch_size) * step * (1 + beside) + held * row
    # At the end every view of its own rows and of the test rows, and (not of masks) one more look at all of them.
    looks = (held + seen) * views(job, network) + (0 if job.task.dense else len(table.scored) + seen)
    total = len(job.models) * (config.epochs * epoch + looks * row)
    return Cost(step, row, epoch, total, len(job.models), peak(job))


def views(job: Job, network: Net) -> float:
    """Return how many views a row is predicted from, those of `hard_tta` by their share."""
    how = job.config.predict
    if isinstance(network, MaskNetwork):
        look = look_of(job)
        return len(MASK_TTA[look.tta](network.stride, look.size))
    more = len(views_of(how.hard_tta, network.crop)) * how.hard_share if how.hard_tta != "none" else 0.0
    return len(views_of(how.tta, network.crop)) + more


def seconds_a_row(material: Material, network: Net) -> float:
    """Return the seconds that a prediction of a row takes, from one view."""
    job, rows = material.job, material.sample(LOOKED_AT)
    for _ in range(2):  # the first time it warms up
        started = time.perf_counter()
        if isinstance(network, MaskNetwork):
            assert isinstance(material.images, Ragged)
            sizes = job.table.sizes[job.table.labelled][rows]
            for _ in predicted(network, material.images, rows, sizes, replace(look_of(job), tta="none"), job.machine):
                pass
        else:
            assert not isinstance(material.images, Ragged)
            scores(network, material.images, rows, machine=job.machine, batch_size=job.config.predict.batch_size)
    return (time.perf_counter() - started) / len(rows)


def peak(job: Job) -> int:
    """Return the most bytes that were in use at a time: of the GPU where there is one, else of this process."""
    if job.machine.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def expense(found: Cost, jobs: int) -> Finding:
    """Say what a run costs, with `jobs` models side by side."""
    words = f"{found.step * 1000:.0f} ms a step, {in_time(found.epoch)} an epoch, {found.memory / 1e9:.1f} GB; "
    words += f"all {found.models} models in about {in_time(found.total / jobs)}"
    return Finding("cost", OK, words)


def in_time(seconds: float) -> str:
    """Return seconds for a person."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
