"""What is done to the head of a trained network before it predicts: the prior taken out, classes given equal footing.

Nothing here trains the network again, so all of it may be changed after training. Every number is of the rows that the
model was trained on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from pipeline.images.cache import Images
from pipeline.nets.heads import start_head
from pipeline.nets.joint import objective_of
from pipeline.nets.last import fresh_head
from pipeline.nets.models import Network, to_prediction
from pipeline.nets.objective import Objective
from pipeline.store.errors import resolve
from pipeline.store.files import Array, read_npy
from pipeline.store.imbalance import Sampling
from pipeline.training.balance import balanced, shows_of
from pipeline.training.job import Job
from pipeline.training.lessons import plan
from pipeline.training.optim import OPTIMIZERS, factor, parameter_groups
from pipeline.training.predict import scores
from pipeline.training.readable import labelled_images
from pipeline.training.sampling import Batches, Lessons
from pipeline.training.weights import fitted_network
from pipeline.training.which import Which

PARITY = Sampling(balance="parity")
LARGEST_SCALE = 100.0


def predictor(job: Job, which: Which) -> Network:
    """Return the network that a model predicts with: as it was trained, its head as `decouple` and `predict` say."""
    job = job.within(which)
    network, method = fitted_network(job, which.files(job.files).model), job.config.decouple.method
    at = np.flatnonzero(np.isin(job.table.labelled, read_npy(which.files(job.files).rows)))
    rows = job.table.labelled[at]
    if method == "tau":
        normalise(network.head, job.config.decouple.tau)
    elif method == "ncm":
        images, _ = labelled_images(job)
        network.head = nearest_mean(job, seen_by_head(job, network, images, at), rows)
    elif method == "crt":
        network.head = retrained(job, which, network)
    if tau := job.config.predict.logit_adjust:
        prior = prior_of(job, rows)
        with torch.no_grad():  # so it is taken from the scores of every view
            network.head.bias[: len(prior)] -= tau * prior
    return network


def of_rows(job: Job, rows: Array, **options: Any) -> tuple[Objective, Array]:
    """Return an objective by its name alone, and the targets, of some rows of the table."""
    y = job.task.targets(job.table.y[rows])
    return objective_of(job.task, job.head, len(job.table.classes), y, name="auto", **options), y


def prior_of(job: Job, rows: Array) -> Tensor:
    """Return the log prior (D,) of some rows of the table, in the columns of the head."""
    objective, y = of_rows(job, rows)
    return objective.log_prior(y)


def adjusted(job: Job, prediction: Array, rows: Array) -> Array:
    """Return probabilities (N P) without the prior of some rows of the table, where `predict.logit_adjust` asks so.

    For heads that are not a network's: what a network has taken from its scores (Menon 2021).
    """
    tau = job.config.predict.logit_adjust
    if not tau:
        return prediction
    p = torch.tensor(prediction, dtype=torch.float64)
    logits = p.log() if job.task.name == "multiclass" else p.logit(1e-12)
    none = torch.zeros(1)
    return to_prediction(job.task, "classification", logits - tau * prior_of(job, rows), none, none + 1).numpy()


class Seen(nn.Module):
    """Give what the head of a network sees in place of its scores."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, meta: Tensor | None = None) -> Tensor:
        """Return N F."""
        return self.network.joined(self.network.features(x), meta)


def seen_by_head(job: Job, network: Network, images: Images, rows: Array) -> Tensor:
    """Return what the head sees of some images (N F, on the CPU): features and metadata, without dropout."""
    size = job.config.predict.batch_size
    return scores(Seen(network), images, rows, machine=job.machine, batch_size=size).clone()


def retrained(job: Job, which: Which, network: Network) -> nn.Linear:
    """Return a new head, trained on features that stay, its classes drawn equally often (cRT, Kang 2020)."""
    config, optim = job.config, job.config.optim
    course = plan(job, which, *labelled_images(job))
    gold, seed = course.lessons.gold, which.seed(config.seed)
    x, targets = seen_by_head(job, network, course.images, gold), course.targets[gold]
    classes = job.table.classes
    shows = shows_of(job.task, job.task.targets(job.table.y[course.rows[gold]]), len(classes))
    lessons = balanced(Lessons.of(np.arange(len(gold))), shows, classes, PARITY)
    epochs = max(1, round(config.decouple.share * config.epochs))
    batches, step = Batches(lessons, job.batch_size, seed, epochs), 0
    shape: Any = optim.model_dump(include={"schedule", "warmup", "milestones", "gamma", "power"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = fresh_head(x.shape[1], network.head.out_features)
        start_head(head, config.model.head_init)
    make = resolve(OPTIMIZERS, optim.name, "optimizer")
    optimizer = make(parameter_groups(head, optim.weight_decay), optim.lr, optim.momentum)
    for batches.epoch in range(epochs):
        for batch in batches:
            rows, step = [row for _, row, *_ in batch], step + 1
            for group in optimizer.param_groups:
                group["lr"] = optim.lr * factor(progress=step / (epochs * len(batches)), swa=0.0, **shape)
            loss = (course.objective.loss(head(x[rows]), targets[rows]) * course.weights[gold[rows]]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return head


class NearestMean(nn.Module):
    """Score features N F by their cosine with D directions, times a scale, plus a bias."""

    def __init__(self, means: Tensor, bias: Tensor, scale: float) -> None:
        super().__init__()
        self.means, self.bias, self.scale = nn.Parameter(means), nn.Parameter(scale * bias), scale

    def forward(self, x: Tensor) -> Tensor:
        """Return N D."""
        return self.scale * functional.normalize(x, dim=1) @ self.means.T + self.bias


def nearest_mean(job: Job, x: Tensor, rows: Array) -> NearestMean:
    """Return the head that compares features with the mean direction of each class (Kang 2020), of some rows (x: N F).

    A question is answered by the mean of the rows that say yes less that of those that say no. The scale, which no
    decision hangs on, is that of the least loss on these rows, classes weighing alike.
    """
    objective, y = of_rows(job, rows, class_weight="inverse")
    targets, unit = objective.encode(y), functional.normalize(x, dim=1)
    means, bias = direction(unit, targets.nan_to_num())
    if objective.independent:
        away, none = direction(unit, (1 - targets).nan_to_num())
        means, bias = means - away, bias - none
    cosines = unit @ means.T + bias

    def lost(log_scale: float) -> float:
        return objective.loss(math.exp(log_scale) * cosines, targets).mean().item()

    best = minimize_scalar(lost, bounds=(0.0, math.log(LARGEST_SCALE)), method="bounded").x
    return NearestMean(means, bias, math.exp(best))


def direction(unit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean direction (D F) of unit rows N F by weights N D, and 0; -1 (as far as can be) for no rows."""
    return functional.normalize(weight.T @ unit, dim=1), -(weight.sum(0) == 0).float()


@torch.no_grad()
def normalise(head: nn.Linear, tau: float) -> None:
    """Divide the weights of each class by their length to the power tau, take the bias out (Kang 2020).

    The mean length stays, so that probabilities do: no decision hangs on it.
    """
    length = head.weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    head.weight *= (length.mean() / length) ** tau
    head.bias.zero_()
