"""What the checks look at: one model of a run, the rows that it trains on, what it sees of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.images.augment import augmenter, mix_batch
from pipeline.images.cache import Images, metadata
from pipeline.images.dense import DenseViews
from pipeline.images.ragged import Ragged
from pipeline.nets.losses import Goal
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.mask_objective import MaskObjective
from pipeline.nets.models import Network
from pipeline.nets.normalize import on_device
from pipeline.nets.objective import Objective
from pipeline.store.files import Array
from pipeline.training.feed import feed
from pipeline.training.fold import fresh_network, goal_of
from pipeline.training.job import Job
from pipeline.training.lessons import plan
from pipeline.training.mask_fold import fresh_mask_network, mask_views
from pipeline.training.mask_job import size_of
from pipeline.training.readable import labelled_images
from pipeline.training.sampling import Batches, Lessons, Views, collate
from pipeline.training.which import Which

Net = Network | MaskNetwork


@dataclass(frozen=True)
class Batch:
    """Images N C H W on the device, targets N D as the objective takes them, loss weights N, metadata N M, rows N."""

    x: Tensor
    y: Tensor
    weights: Tensor
    meta: Tensor
    rows: Array

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice) -> Batch:
        """Return some of its rows."""
        return Batch(self.x[rows], self.y[rows], self.weights[rows], self.meta[rows], self.rows[rows])


@dataclass(frozen=True)
class Material:
    """A model of a run before its first step, and its training rows: `views` as it sees them, `plain` without change.

    `images` are those of the labelled rows, or their patches, `places` (N) their positions in the table; `targets`
    (N D; none of masks, which are the last `masks` channels of a view) and `weights` (N) theirs; `lessons` say which
    are trained on. `objective` is of the targets alone, `goal` of all that is learnt: margins, triplets, columns beside
    them.
    """

    job: Job
    which: Which
    first: Net
    objective: Objective | MaskObjective
    goal: Goal
    targets: Tensor
    images: Images | Ragged
    weights: Tensor
    lessons: Lessons
    views: Dataset[tuple[Array, int]]
    plain: Dataset[tuple[Array, int]]
    places: Array
    masks: int = 0

    @property
    def rows(self) -> Array:
        """Return the training rows, as positions among the labelled ones."""
        return self.lessons.gold

    @property
    def seed(self) -> int:
        """Return the seed of the model."""
        return self.which.seed(self.job.config.seed)

    @cached_property
    def y(self) -> Array:
        """Return the targets of the training rows, as the table has them (n T)."""
        return np.asarray(self.job.table.y[self.places[self.rows]])

    def sample(self, count: int) -> Array:
        """Return at most `count` training rows, drawn at random, in table order."""
        drawn = np.random.default_rng(self.seed).permutation(self.rows)[:count]
        return np.sort(drawn)

    def network(self) -> Net:
        """Return a copy of the network as it is before its first step, on the device."""
        torch.manual_seed(self.seed)
        return self.job.machine.place(copy.deepcopy(self.first)).train()

    def batch(self, rows: Array) -> Batch:
        """Return some rows without augmentation."""
        self.objective.progress = 0.0
        places = [(0, int(row), *([n] if self.masks else [])) for n, row in enumerate(rows)]
        return self._batch(*collate([self.plain[place] for place in places]))

    def stream(self) -> Iterator[Batch]:
        """Yield batches without end as a training sees them from its first epoch on: augmented, mixed."""
        job, how, self.objective.progress = self.job, self.job.config.augment, 0.0
        batches = Batches(self.lessons, job.batch_size, self.seed, job.config.epochs, self.masks > 0)
        views_of, step = feed(self.views, batches, job.machine), 0
        while True:
            for views, picked in views_of:
                mixing = np.random.default_rng([self.seed, batches.epoch, step])
                yield self._batch(views, picked, (how.mixup, how.cutmix, mixing))
                step += 1
            batches.epoch += 1

    def _batch(
        self, views: Tensor, picked: Tensor, mixing: tuple[float, float, np.random.Generator] | None = None
    ) -> Batch:
        machine = self.job.machine
        meta = torch.from_numpy(metadata(self.images))[picked]
        y = torch.cat([self.targets[picked], self.weights[picked, None], meta], 1).to(machine.device)
        x = on_device(views, self.images, picked, machine)
        if mixing is not None:
            x, y = mix_batch(x, y, *mixing)
        if self.masks:
            x, y = x[:, : -self.masks], torch.cat([x[:, -self.masks :].flatten(1), y], 1)
        targets, weights, meta = torch.split(y, [y.shape[1] - meta.shape[1] - 1, 1, meta.shape[1]], 1)
        return Batch(x, targets, weights[:, 0], meta, picked.numpy())


def material_of(job: Job, which: Which) -> Material:
    """Return the material of a model of a run."""
    job = job.within(which)
    return _of_masks(job, which) if job.task.dense else _of_rows(job, which)


def _of_rows(job: Job, which: Which) -> Material:
    images, bad = labelled_images(job)
    course, how, seed = plan(job, which, images, bad), job.config, which.seed(job.config.seed)
    changed = augmenter(how.augment.recipe, how.image.crop)
    views, plain = (Views(course.images, change, seed) for change in (changed, augmenter("none", how.image.crop)))
    network = fresh_network(job, which, course)
    return Material(
        job, which, network, course.objective, *goal_of(job, course, network), course.images,
        course.weights, course.lessons, views, plain, course.rows,
    )  # fmt: skip


def _of_masks(job: Job, which: Which) -> Material:
    _, course, views = mask_views(job, which)
    network, objective = fresh_mask_network(job, which, course)
    masks = views.dense.masks
    plain = DenseViews(views.dense, augmenter("none"), views.seed, views.fit, size_of(job), views.show)
    return Material(
        job, which, network, objective, objective, torch.zeros(len(course.rows), 0), course.images, course.weights,
        course.lessons, views, plain, course.rows, masks,
    )  # fmt: skip
