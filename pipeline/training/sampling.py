"""Which rows make a batch, and what of each image the network sees: the same in any process and after any kill."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.images.augment import Augmenter
from pipeline.images.cache import Images
from pipeline.images.pixels import Still, seeds_of
from pipeline.images.ragged import Ragged
from pipeline.nets.machine import Machine
from pipeline.store.command import setting
from pipeline.store.files import Array


@dataclass(frozen=True)
class Lessons:
    """The rows a model learns from, as positions in one array of images.

    `gold` are labelled rows, drawn `draw` times as often as others (None: all alike) and, for a share `curriculum` of
    the epochs, only those that are easy enough (`difficulty`). `extra` are pseudo-labelled rows: a `share` of every
    batch (`mixed`), or alone for the first `share` of the epochs and never again (`finetune`). `shows` (G C, bool) says
    of labelled rows which classes they are of, or are in their masks: `non_empty` is the share of rows drawn that show
    any, in the first epoch and in the last; with `equal` the classes take turns, row by row; with `under` each has as
    many rows in an epoch as the rarest; with `per_class` a batch has so many of each of its classes. `anew`: a row that
    comes twice in an epoch is seen in two ways.
    """

    gold: Array
    extra: Array
    share: float = 0.5
    mode: str = "mixed"
    draw: Array | None = None
    difficulty: Array | None = None
    curriculum: float = 0.0
    shows: Array | None = None
    non_empty: tuple[float, float] | None = None
    equal: bool = False
    under: bool = False
    per_class: int = 0
    anew: bool = False

    @classmethod
    def of(cls, gold: Array) -> Lessons:
        """Return the lessons of labelled rows alone."""
        return cls(gold, gold[:0])


class Views(Dataset[tuple[Array, int]]):
    """Augmented images by (epoch, row), or (epoch, row, place in the epoch): the same in any process and any order."""

    def __init__(self, images: Images | Ragged, augment: Augmenter, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, place: tuple[int, ...]) -> tuple[Array, int]:
        epoch, row, *nth = place
        if isinstance(self.augment, Still):
            seed = int(seeds_of(self.seed, epoch, keys_of([place]))[0])
        else:
            seed = int(np.random.SeedSequence([self.seed, epoch, row, *nth]).generate_state(1)[0])
        return self.augment(self.images[row], seed), row

    def __getitems__(self, places: list[tuple[int, ...]]) -> list[tuple[Array, int]] | tuple[Array, Array]:
        """Return a batch: where views are of whole pixels as two arrays, at once."""
        if not isinstance(self.augment, Still) or isinstance(self.images, Ragged):
            return [self[place] for place in places]
        rows = np.array([row for _, row, *_ in places])
        return self.augment.batch(self.images, rows, seeds_of(self.seed, places[0][0], keys_of(places))), rows


def keys_of(places: list[tuple[int, ...]]) -> Array:
    """Return what tells views of an epoch apart: the row, and its place in the epoch where that is numbered."""
    return np.array([row + (nth[0] << 32 if nth else 0) for _, row, *nth in places])


class Batches:
    """The sampler: batches of (epoch, row), `numbered` of (epoch, row, place in the epoch).

    An epoch has as many steps as the labelled rows have batches, whatever else is drawn.

    So a student takes as many optimiser steps as its teacher, and a comparison of the two is fair.
    """

    def __init__(self, lessons: Lessons, batch_size: int, seed: int, epochs: int, numbered: bool = False) -> None:
        self.lessons, self.batch_size, self.seed, self.epochs = lessons, batch_size, seed, epochs
        self.numbered = numbered or lessons.anew
        self.epoch = 0
        self.steps = -(-len(lessons.gold) // batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        nth = 0
        for batch in self._epoch():
            rows = batch.tolist()
            yield [(self.epoch, row, *([nth + at] if self.numbered else [])) for at, row in enumerate(rows)]
            nth += len(rows)

    def _epoch(self) -> list[Array]:
        lessons, size = self.lessons, self.batch_size
        if lessons.per_class:
            return self._in_classes(lessons.shows, lessons.per_class)
        if not len(lessons.extra):
            return np.array_split(self._round(self.epoch, self.epochs), self.steps)
        extra = int(np.clip(round(lessons.share * size), 1, size - 1)) if size > 1 else 0
        if lessons.mode == "finetune":
            # The last epoch is of labelled rows, however few epochs there are.
            extra = size if self.epoch < min(lessons.share * self.epochs, self.epochs - 1) else 0
        first = np.split(self._stream(False, self.steps * (size - extra)), self.steps)
        second = np.split(self._stream(True, self.steps * extra), self.steps)
        return [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def _in_classes(self, shows: Array | None, each: int) -> list[Array]:
        """Return the batches of an epoch: blocks of `each` rows of a class (`shows` G C, one a row), spread evenly.

        The blocks of a class lie at even distances from a random start, so that as few as can be share a batch.
        """
        assert shows is not None
        rng = np.random.default_rng([self.seed, self.epoch, 9])
        blocks, places = [self.lessons.gold[:0].reshape(0, each)], [np.zeros(0)]
        for column in shows.T:
            rows = rng.permutation(self.lessons.gold[column])
            mine = np.resize(rows, (-(-len(rows) // each), each))
            blocks.append(mine)
            places.append((rng.random() + np.arange(len(mine))) / max(len(mine), 1))
        order = np.argsort(np.concatenate(places), kind="stable")
        most = self.steps * max(self.batch_size // each, 1)  # of many small classes some wait for another epoch
        kept = np.sort(rng.permutation(len(order))[:most])
        found = np.array_split(np.concatenate(blocks)[order[kept]], self.steps)
        return [batch.ravel() for batch in found]

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
        if lessons.shows is not None and (lessons.non_empty or lessons.equal or lessons.under):
            return self._by_class(lessons.shows, number, total)
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

    def _by_class(self, shows: Array, number: int, total: float) -> Array:
        """Return as many rows as there are labelled ones, by the classes they show."""
        lessons, count = self.lessons, len(self.lessons.gold)
        if lessons.under:
            least = min(rows for rows in shows.sum(0).tolist() if rows)
            kept = [self._permute(lessons.gold[shows[:, c]], number, 7, c)[:least] for c in range(shows.shape[1])]
            return self._endless(np.unique(np.concatenate(kept)), number, count, 8)
        if lessons.equal:
            there = np.flatnonzero(shows.any(0))
            turns = [
                self._endless(lessons.gold[shows[:, c]], number, -(-count // len(there)), 3, int(c)) for c in there
            ]
            return np.stack(turns, 1).ravel()[:count]
        assert lessons.non_empty is not None
        first, last = lessons.non_empty
        full, empty = lessons.gold[shows.any(1)], lessons.gold[~shows.any(1)]
        share = first + (last - first) * min(number / max(total - 1, 1), 1.0)
        some = round(share * count) if len(full) and len(empty) else count if len(full) else 0
        drawn = [self._endless(full, number, some, 4), self._endless(empty, number, count - some, 5)]
        return self._permute(np.concatenate(drawn), number, 6)

    def _endless(self, rows: Array, number: int, count: int, *which: int) -> Array:
        """Return `count` rows of one permutation after another, so that none comes twice before all have come."""
        turns = [self._permute(rows, number, *which, turn) for turn in range(-(-count // max(len(rows), 1)))]
        return np.concatenate([rows[:0], *turns])[:count]


def collate(items: list[tuple[Array, int]] | tuple[Array, Array]) -> tuple[Tensor, Tensor]:
    """Stack views to N H W C as they are (uint8), where they are not a batch yet; they become floats on the device."""
    if isinstance(items, tuple):
        return torch.from_numpy(items[0]), torch.from_numpy(items[1])
    return torch.from_numpy(np.stack([image for image, _ in items])), torch.tensor([row for _, row in items])


def loader(
    views: Dataset[tuple[Array, int]], batches: Iterable[list[tuple[int, ...]]], machine: Machine
) -> DataLoader[tuple[Array, int]]:
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
