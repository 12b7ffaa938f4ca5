"""What the models of a run share: config, table, machine; their names are checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows, cached
from pipeline.images.ragged import Ragged, cached_ragged
from pipeline.nets.joint import objective_of
from pipeline.nets.machine import Machine
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.models import Network, build, outputs_of
from pipeline.nets.normalize import by_group
from pipeline.scoring.metrics import Metric
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, nearest, resolve
from pipeline.store.files import Array
from pipeline.store.patches import has_background
from pipeline.store.shift import Semi
from pipeline.store.table import Table
from pipeline.store.train import Train
from pipeline.tasks import Task, refuse_several, task_of
from pipeline.training.auxiliary import parts_of
from pipeline.training.mask_job import NAME, check_masks, new_mask_network, refuse_mask_settings
from pipeline.training.optim import OPTIMIZERS, SCHEDULES
from pipeline.training.predict import TTA
from pipeline.training.switches import check_norms, check_retrieval, check_switches
from pipeline.training.which import Which


@dataclass(frozen=True)
class Job:
    """What every fold of a run shares."""

    files: RunFiles
    config: Train
    competition: Competition
    table: Table
    metric: Metric
    machine: Machine
    fit_key: str
    predict_key: str
    halves: bool = False
    parents: tuple[dict[str, Any], ...] = ()
    unshifted: bool = False

    @property
    def models(self) -> list[Which]:
        """Return every model of the run: in each repeat one a fold, or one a fold and half, and one a pair of folds.

        Of those that are adapted to images one more a fold for the test, and before it, as that predicts for both.
        """
        found, halves = [], (0, 1) if self.halves else (None,)
        targets = ("fold",) if self.semi.method == "none" else ("test", "fold")
        for r in range(self.repeats):
            found += [Which((k,), half, r, target=to) for k in self.folds for half in halves for to in targets]
            found += [Which(pair, None, r) for pair in combinations(self.folds, 2)] if self.config.pairs else []
        return found

    @property
    def semi(self) -> Semi:
        """Return how models learn from images without labels: not at all where a shift was asked for and none shown."""
        return Semi() if self.unshifted else self.config.semi

    @property
    def whole(self) -> list[Which]:
        """Return the models whose predictions make the run's: one a repeat and fold, the two of halves as one."""
        return [Which((k,), None, r) for r in range(self.repeats) for k in self.folds]

    @property
    def repeats(self) -> int:
        """Return how often the rows are split."""
        return len(self.table.splits)

    def within(self, which: Which) -> Job:
        """Return the job as a model knows it: with the folds of its own repeat."""
        return replace(self, table=self.table.split(which.repeat))

    @property
    def level(self) -> str:
        """Return what each model saw of its own fold's labels."""
        return "crossfit" if self.config.select == "best" else "blind"

    @property
    def chosen_by(self) -> str:
        """Return the number of each epoch by which select = "best" chooses one."""
        return "valid_loss" if self.config.select_by == "loss" else f"valid_{self.metric.name}"

    @property
    def task(self) -> Task:
        """Return the task."""
        return task_of(self.competition, self.table.classes)

    @property
    def folds(self) -> list[int]:
        """Return the folds that are scored."""
        return [int(k) for k in np.unique(self.table.folds[self.table.scored])]

    @property
    def head(self) -> str:
        """Return the head that the config asks for."""
        heads = self.task.heads
        head = heads[0] if self.config.model.head == "auto" else self.config.model.head
        if head not in heads:
            raise UserError(
                f"{self.files.config}: model.head {head!r} is not for a {self.task.name} task; {nearest(head, heads)}"
            )
        return head

    @property
    def size(self) -> list[int]:
        """Return height and width."""
        size = self.config.image.size
        return [size, size] if isinstance(size, int) else size

    @property
    def seen(self) -> list[int]:
        """Return height and width of what the network sees of an image."""
        crop = self.config.image.crop or self.config.patches.size
        return [crop, crop] if crop else self.size

    @property
    def batch_size(self) -> int:
        """Return how many rows a step sees: what the config says or the machine chose."""
        asked = self.config.batch_size
        return asked if isinstance(asked, int) else self.machine.batch_size

    @property
    def inference(self) -> str:
        """Return the way to predict (see `inference`): as in training, or what the machine chose."""
        return (self.config.predict.fastest and self.machine.inference) or "same"

    def images(self, rows: Array) -> tuple[Rows, dict[int, str]]:
        """Return decoded images of some rows of the table, and what is wrong with the unreadable ones."""
        table, files, how = self.table, self.files.competition, self.competition.images
        found, bad = cached(files, table.paths[rows], table.digests[rows], how, self.size)
        grouped = self.config.image.normalize == "group"
        stats = by_group(found, table.groups[rows], how.width, bad) if grouped else None
        return Rows([found], table.meta[rows], stats), bad

    def ragged(self, rows: Array) -> tuple[Ragged, dict[int, str]]:
        """Return the same at their natural sizes: what masks are learnt from."""
        table, files = self.table, self.files.competition
        return cached_ragged(files, table.paths[rows], table.digests[rows], self.competition.images, table.sizes[rows])


def check_names(job: Job) -> None:
    """Resolve every name of the config before anything is written or trained."""
    config, y = job.config, job.task.targets(job.table.y[job.table.scored])
    augmenter(config.augment.recipe)
    resolve(OPTIMIZERS, config.optim.name, "optimizer")
    resolve(SCHEDULES, config.optim.schedule, "schedule")
    check_switches(job)
    if job.task.name == NAME:
        check_masks(job)
        check_norms(job, any_network(without_weights(job) if config.model.weights == "pretrained" else job))
        return
    refuse_mask_settings(job)
    for name in ("tta", "hard_tta"):
        views = getattr(config.predict, name)
        resolve(TTA, views, f"predict.{name}")
        if views == "d4" and job.seen[0] != job.seen[1]:
            what = f'predict.{name} = "d4" turns images by 90 degrees'
            raise UserError(f"{job.files.config}: {what}: image.size must be square")
    if config.predict.hard_tta != "none":
        refuse_several(job.competition, job.files.config, "predict.hard_tta")
        if job.task.name == "regression":
            raise UserError(f"{job.files.config}: predict.hard_tta needs to know what is hard; one value does not tell")
    if config.image.normalize == "group" and not job.table.groups.any():
        raise UserError(
            f'{job.files.config}: image.normalize = "group" needs [group] in {job.files.competition.config}'
        )
    if config.optim.freeze == "auto":
        refuse_several(job.competition, job.files.config, 'optim.freeze = "auto"')
        if job.task.name == "regression":
            raise UserError(f'{job.files.config}: optim.freeze = "auto" counts images per class; values have none')
    objective_of(job.task, job.head, len(job.table.classes), y, **config.loss.model_dump())
    if config.indicators and (job.task.name != "multiclass" or job.competition.soft):
        raise UserError(
            f"{job.files.config}: indicators = true gives rows a class of their own: multiclass only, not soft"
        )
    if config.fit != "network" and (job.competition.soft or job.competition.unknown == "mask"):
        raise UserError(f"{job.files.config}: fit = {config.fit!r} needs labels that are known and hard: use a network")
    if config.pairs and len(job.folds) < 3:
        raise UserError(f"{job.files.config}: pairs = true needs 3 folds or more: blind to 2 of 2, nothing is left")
    network = new_network(without_weights(job) if config.model.weights == "pretrained" else job)
    check_norms(job, network)
    check_retrieval(job, network.width)


def any_network(job: Job) -> Network | MaskNetwork:
    """Build the network of a run, with masks or without, on the CPU."""
    return new_mask_network(job) if job.task.name == NAME else new_network(job)


def without_weights(job: Job) -> Job:
    """Return the job with an untrained network: to look at it, or to load weights of our own into it."""
    model = job.config.model.model_copy(update={"weights": "none"})
    return replace(job, config=job.config.model_copy(update={"model": model}))


def new_network(job: Job) -> Network:
    """Build the network of a run, on the CPU."""
    model, outputs = job.config.model, outputs_of(job.task, job.head, len(job.table.classes))
    metric = job.config.metric_learning
    return build(
        model.name,
        weights=model.weights,
        options=dict(model.options),
        channels=job.competition.images.width,
        views=job.competition.images.views,
        aggregate=model.aggregate,
        meta=job.table.meta.shape[1],
        beside=model.metadata,
        size=job.seen,
        outputs=outputs,
        values=outputs if job.task.name in ("regression", "several") else 1,
        pool=model.pool,
        dropout=model.dropout,
        dropouts=model.dropouts,
        aux=sum(part.width for part in parts_of(job)),
        multiscale=model.multiscale,
        act=model.act,
        drop_path=model.drop_path,
        normalize=job.config.image.normalize,
        crop=job.config.image.crop,
        extra=int(job.config.indicators or has_background(job.config)),
        neck=metric.neck,
        bias=metric.biased,
        cosine=metric.scale if metric.loss == "arcface" else 0.0,
        show=metric.loss == "triplet",
    )
