"""Score predicted masks as they come, image by image: the statistics of the metric, and the log loss of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.masks.decide import Decision, decide, objects_of
from pipeline.masks.maps import Maps
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array
from pipeline.training.mask_job import truth_of

if TYPE_CHECKING:
    from pipeline.training.job import Job

UNTUNED = Decision()


class Scores:
    """The statistics (N k) of some rows of the table, in their order, decided as nobody has tuned it."""

    def __init__(self, job: Job, rows: Array) -> None:
        self.metric = Problem.of(job.table, job.task, job.metric).mask_metric
        self.truth, self.rows, self.exclusive = truth_of(job), rows, job.competition.masks.exclusive
        self._stats: list[Array] = []
        self._losses: list[float] = []

    def add(self, maps: Array, present: Array) -> None:
        """Take the maps (C+E h w, at the size of the image or smaller) and presence (C) of the next row."""
        row = int(self.rows[len(self._stats)])
        truth, maps = self.truth[row], np.asarray(maps, np.float32)
        guess = decide(maps, present, UNTUNED, truth.shape[1:], self.exclusive)
        objects: tuple[Array, ...] = ()
        if self.metric.objects:
            objects = self.truth.instances(row), objects_of(guess[0], maps, UNTUNED, len(truth))
        self._stats.append(self.metric.stats(truth, guess, *objects))
        if maps.shape[1:] == truth.shape[1:]:
            p = np.clip(maps[: len(truth)], 1e-6, 1 - 1e-6)
            likely = np.where(truth, p, 1.0 if self.exclusive else 1 - p)
            self._losses.append(float(-np.log(likely).mean() * (len(truth) if self.exclusive else 1)))

    @property
    def stats(self) -> Array:
        """Return the statistics (N k)."""
        return np.stack(self._stats)

    @property
    def loss(self) -> float:
        """Return the mean over images of the log loss of their pixels."""
        return float(np.mean(self._losses))


def stats_of(job: Job, rows: Array, maps: Maps) -> Array:
    """Return the statistics (N k) of some rows of the table by what the shelf holds of them."""
    scores = Scores(job, rows)
    for i in range(len(maps)):
        scores.add(maps[i], maps.present(i))
    return scores.stats
