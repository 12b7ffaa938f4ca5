"""Which rows make a batch, and what of each image the network sees: the same in any process and after any kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.store.command import setting
from pipeline.store.files import Array
from pipeline.training.augment import Augmenter
from pipeline.training.images import Images
from pipeline.training.machine import Machine


@dataclass(frozen=True)
class Lessons:
    """The rows a model learns from, as positions in one array of images.

    `gold` are labelled rows, drawn `draw` times as often as others (None: all alike) and, for a share `curriculum` of
    the epochs, only those that are easy enough (`difficulty`). `extra` are pseudo-labelled rows: a `share` of every
    batch (`mixed`), or alone for the first `share` of the epochs and never again (`finetune`).
    """

    gold: Array
    extra: Array
    share: float = 0.5
    mode: str = "mixed"
    draw: Array | None = None
    difficulty: Array | None = None
    curriculum: float = 0.0

    @classmethod
    def of(cls, gold: Array) -> Lessons:
        """Return the lessons of labelled rows alone."""
        return cls(gold, gold[:0])


class Views(Dataset[tuple[Array, int]]):
    """Augmented images by (epoch, row): the same view in any process and any order."""

    def __init__(self, images: Images, augment: Augmenter, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[Array, int]:
        epoch, row = place
        seed = int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)[0])
        return self.augment(self.images[row], seed), row


class Batches:
    """The sampler. An epoch has as many steps as the labelled rows have batches, whatever else is drawn.

    So a student takes as many optimiser steps as its teacher, and a comparison of the two is fair.
    """

    def __init__(self, lessons: Lessons, batch_size: int, seed: int, epochs: int) -> None:
        self.lessons, self.batch_size, self.seed, self.epochs = lessons, batch_size, seed, epochs
        self.epoch = 0
        self.steps = -(-len(lessons.gold) // batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._epoch():
            yield [(self.epoch, row) for row in batch.tolist()]

    def _epoch(self) -> list[Array]:
        lessons, size = self.lessons, self.batch_size
        if not len(lessons.extra):
            return np.array_split(self._round(self.epoch, self.epochs), self.steps)
        extra = int(np.clip(round(lessons.share * size), 1, size - 1)) if size > 1 else 0
        if lessons.mode == "finetune":
            # The last epoch is of labelled rows, however few epochs there are.
            extra = size if self.epoch < min(lessons.share * self.epochs, self.epochs - 1) else 0
        first = np.split(self._stream(False, self.steps * (size - extra)), self.steps)
        second = np.split(self._stream(True, self.steps * extra), self.steps)
        return [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def _stream(self, extra: bool, count: int) -> Array:
        """Return the next `count` rows of an endless row of permutations, so that epochs go on where the last ended."""
        if not count:
            return self.lessons.extra[:0]
        length, start = len(self.lessons.extra if extra else self.lessons.gold), self.epoch * count
        rounds, total = range(start // length, (start + count - 1) // length + 1), self.epochs * count / length
        rows = np.concatenate(
            [self._permute(self.lessons.extra, n, 1) if extra else self._round(n, total) for n in rounds]
        )
        return rows[start - rounds[0] * length :][:count]

    def _permute(self, rows: Array, number: int, *which: int) -> Array:
        return np.random.default_rng([self.seed, number, *which]).permutation(rows)

    def _round(self, number: int, total: float) -> Array:
        """Return the labelled rows of round `number` of `total` in random order, as many as there are labelled rows."""
        lessons, easy = self.lessons, self.lessons.curriculum * total
        rows, draw = lessons.gold, lessons.draw
        if lessons.difficulty is not None and number < easy:
            # From the easier half to all of them; repeated, so that the number of steps stays.
            count = len(rows) * (0.5 + 0.5 * number / easy)
            easiest = np.argsort(lessons.difficulty, kind="stable")[: max(1, int(count))]
            rows, draw = rows[easiest], None if draw is None else draw[easiest]
        if draw is not None:
            # Systematic resampling: each row comes floor or ceil of its due.
            offset = np.random.default_rng([self.seed, number, 2]).random()
            due = np.cumsum(draw) / draw.sum() * len(lessons.gold)
            rows = np.repeat(rows, np.diff(np.floor(due - offset + 1).astype(int), prepend=0))
        return np.resize(self._permute(rows, number), len(lessons.gold))


def collate(items: list[tuple[Array, int]]) -> tuple[Tensor, Tensor]:
    """Stack views to N H W C as they are (uint8); they become floats on the device."""
    return torch.from_numpy(np.stack([image for image, _ in items])), torch.tensor([row for _, row in items])


def loader(views: Views, batches: Batches, machine: Machine) -> DataLoader[tuple[Array, int]]:
    """Return the loader of the views in the order of the batches."""
    workers = setting("PODIUM_WORKERS", 0 if machine.device == "cpu" else min(8, os.cpu_count() or 1))
    return DataLoader(
        views,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=machine.device == "cuda",
        persistent_workers=workers > 0,
        # Else the loader draws from the stream of the dropouts, once an epoch or (with workers) once a process.
        generator=torch.Generator(),
    )
