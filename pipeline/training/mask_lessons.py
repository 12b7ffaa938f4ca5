"""What a model of masks learns from: labelled images and pseudo-labelled ones, which of them and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.images.dense import Soft
from pipeline.images.ragged import Ragged
from pipeline.masks.maps import Maps, layout
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, read_json, read_npy
from pipeline.training.job import Job
from pipeline.training.lessons import named_rows, of_half
from pipeline.training.sampling import Lessons
from pipeline.training.which import Which


@dataclass(frozen=True)
class MaskCourse:
    """Images, loss weights N and table positions of the labelled rows, then of the test rows where some are learnt.

    `soft`: the masks of these.
    """

    images: Ragged
    weights: Tensor
    rows: Array
    lessons: Lessons
    soft: Soft | None = None

    @property
    def learnt(self) -> Array:
        """Return the table positions of the rows that are learnt, in order."""
        return np.sort(self.rows[np.concatenate([self.lessons.gold, self.lessons.extra])])


def mask_course(job: Job, which: Which, images: Ragged, lessons: Lessons) -> MaskCourse:
    """Put together what a model learns from: its labelled images, and the pseudo-labels that name it."""
    rows = job.table.labelled
    weights = torch.tensor(job.table.weights[rows], dtype=torch.float32)
    weights = weights / weights[lessons.gold].mean().clamp(min=1e-9)
    course = MaskCourse(images, weights, rows, lessons)
    return with_soft_masks(job, which, course) if job.config.pseudo else course


def with_soft_masks(job: Job, which: Which, course: MaskCourse) -> MaskCourse:
    """Add the test images whose pseudo-labels name this model to a course."""
    assert job.config.pseudo is not None
    table, files, student = job.table, RunFiles(job.config.pseudo), job.config.student
    named, at = named_rows(job, which)
    scale = read_json(files.receipt)["maps"]["scale"]
    where = layout(table.sizes[table.test][at], len(table.classes), 0, scale)
    maps = Maps(read_npy(files.pseudo_maps(which.repeat, which.held_out[0])), where)
    images, unreadable = job.ragged(table.test)
    chosen = of_half(named, which) & ~np.isin(at, list(unreadable))
    n, at = len(course.rows), at[chosen]
    weights = torch.zeros(len(table.test))
    weights[at] = torch.tensor(named["weight"].to_numpy(np.float32)[chosen])
    return MaskCourse(
        course.images.followed_by(images),
        torch.cat([course.weights, weights]),
        np.concatenate([course.rows, table.test]),
        replace(course.lessons, extra=n + at, share=student.share, mode=student.mode),
        Soft(maps.part(chosen), n + at),
    )
