"""Images whose labels a model may not see, or that have none: which they are, and pairs of views of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from pipeline.images.augment import Augmenter, augmenter
from pipeline.images.cache import Rows
from pipeline.store.files import Array
from pipeline.store.table import UNLABELLED
from pipeline.training.job import Job
from pipeline.training.sampling import Views
from pipeline.training.which import Which


@dataclass(frozen=True)
class Unlabelled:
    """Images, which of them are learnt from without labels, and the positions in the table of all that might be."""

    images: Rows
    rows: Array
    table: Array


def unlabelled_of(job: Job, which: Which, images: Rows, bad: dict[int, str]) -> Unlabelled:
    """Return what a model is adapted to: images of its own folds or of the test set, and any that are in no table.

    `images` are those of the labelled rows; test images follow. What cannot be read is left out.
    """
    table, known = job.table, len(images)
    rows = np.flatnonzero(np.isin(table.folds[table.scored], which.held_out if which.target == "fold" else ()))
    if which.target == "test" or (table.folds == UNLABELLED).any():
        more, unread = job.images(table.test)
        images, bad = images.followed_by(more), bad | {known + row: why for row, why in unread.items()}
        wanted = (table.folds[table.test] == UNLABELLED) | (which.target == "test")
        rows = np.concatenate([rows, known + np.flatnonzero(wanted)])
    told = np.concatenate([table.labelled, table.test])[rows]
    return Unlabelled(images, rows[~np.isin(rows, list(bad))], told)


class Drawn:
    """The sampler: in each of `steps` of an epoch the next `size` rows of one permutation after another."""

    def __init__(self, rows: Array, size: int, steps: int, seed: int) -> None:
        self.rows, self.size, self.steps, self.seed, self.epoch = rows, size, steps, seed, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        length, count = len(self.rows), self.steps * self.size
        start = self.epoch * count
        turns = range(start // length, (start + count - 1) // length + 1)
        drawn = np.concatenate([np.random.default_rng([self.seed, turn, 9]).permutation(self.rows) for turn in turns])
        part = drawn[start - turns[0] * length :][:count]
        for step, batch in enumerate(np.split(part, self.steps)):
            yield [(self.epoch, row, step * self.size + nth) for nth, row in enumerate(batch.tolist())]


class Pairs(Dataset[tuple[Array, int]]):
    """Two views of an image side by side (H W 2C) by (epoch, row, place): by the recipe, and another changed more."""

    def __init__(self, images: Rows, augment: Augmenter, seed: int) -> None:
        self.weak, self.other, self.seed = Views(images, augment, seed), Views(images, augment, seed + 1), seed
        self.harder = augmenter("strong")

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Array, int]:
        seed = int(np.random.SeedSequence([self.seed, *place, 2]).generate_state(1)[0])
        strong = self.harder(self.other[place][0], seed)
        return np.concatenate([self.weak[place][0], strong], 2), place[1]
