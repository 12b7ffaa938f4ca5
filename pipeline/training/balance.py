"""Imbalance met by drawing rows: of classes (over-sampling, under-sampling, in turn), of images that look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.images.cache import Images
from pipeline.images.ragged import Ragged
from pipeline.scoring.clusters import clusters, embed, shrink
from pipeline.store.files import Array
from pipeline.store.imbalance import Sampling
from pipeline.tasks import Task
from pipeline.training.encoder import encode
from pipeline.training.job import Job
from pipeline.training.patches import count
from pipeline.training.sampling import Lessons

# Rows of a class are drawn as often as its count to this power asks for, against the commonest class.
POWERS = {"sqrt": 0.5, "parity": 1.0}
# So many images are made small at a time.
CHUNK = 256


def shows_of(task: Task, y: Array, classes: int) -> Array:
    """Return which classes targets are of (N C, bool): soft ones of the likeliest, unknown labels of none."""
    hard = task.harden(y)
    return np.asarray(np.nan_to_num(hard) == 1) if hard.ndim == 2 else np.asarray(hard[:, None] == np.arange(classes))


def balanced(lessons: Lessons, shows: Array, names: Sequence[str], how: Sampling) -> Lessons:
    """Return lessons whose labelled rows, which `shows` (G C, bool) tells the classes of, are drawn as `how` says.

    A row of several classes is drawn as its most wanted one asks for; to be of none is a class too.
    """
    if how.per_class:
        return replace(lessons, shows=shows, per_class=how.per_class, anew=True)
    if how.balance == "none" and not how.repeat:
        return lessons
    every = np.column_stack([shows, ~shows.any(1)])
    if how.balance in ("balanced", "under"):
        turns = how.balance == "balanced"
        return replace(lessons, shows=every, equal=turns, under=not turns, anew=True)
    draw = np.where(every, factors(every.sum(0), names, how), 0.0).max(1)
    return replace(lessons, draw=draw if lessons.draw is None else lessons.draw * draw, anew=True)


def looks(job: Job, images: Images | Ragged, rows: Array) -> Array:
    """Return what some of the labelled `images` (or patches of them) look like (N D): to an encoder, or made small."""
    if how := job.config.sampling.encoder:
        table, mine = job.table, job.table.labelled
        seen = encode(job.files.competition, table.paths[mine], table.digests[mine], job.competition.images, how)
        return np.asarray(seen[rows // count(job)])
    return small(images, rows)


def small(images: Images | Ragged, rows: Array) -> Array:
    """Return what small pictures of some images look like (N D)."""
    if isinstance(images, Ragged):
        made = [shrink(images[int(row)][None]) for row in rows]
    else:
        made = [shrink(images[part]) for part in np.split(rows, range(CHUNK, len(rows), CHUNK))]
    return embed(np.concatenate(made))


def evened(lessons: Lessons, x: Array, how: Sampling, seed: int) -> Lessons:
    """Return lessons in which clusters of labelled rows are drawn equally often: a row by 1 / the size of its own.

    The clusters are of the rows that a model learns from, by what they look like (x: N D); labels are not asked.
    """
    of_row = clusters(x, how.clusters, seed)
    draw = 1 / np.bincount(of_row)[of_row]
    return replace(lessons, draw=draw if lessons.draw is None else lessons.draw * draw, anew=True)


def factors(counts: Array, names: Sequence[str], how: Sampling) -> Array:
    """Return how often a row of each class is drawn where others are drawn once."""
    if how.balance in POWERS:
        return np.asarray((counts.max() / np.maximum(counts, 1)) ** POWERS[how.balance])
    found = np.ones(len(counts))
    for name, times in how.repeat.items():
        found[list(names).index(name)] = times
    return found
