"""Images as their patches: which of them are learnt from, and how they are put together (Hou 2016).

Positions: patch p of the image at position i is at i V + p. Predictions of patches are n V P.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.images.cache import Rows
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.files import Array, read_npy
from pipeline.tasks import Task

if TYPE_CHECKING:
    from pipeline.training.job import Job
    from pipeline.training.which import Which

# The share of the weight that a patch keeps of which nothing at all is known.
LEAST = 1e-6


def count(job: Job) -> int:
    """Return how many patches an image has, 1 where none is cut."""
    return len(job.config.patches.corners(*job.size)) if job.config.patches.size else 1


def cut(job: Job, images: Rows) -> Rows:
    """Return the patches of images as rows; the images themselves where nothing is cut."""
    side = job.config.patches.size
    return images.cut(np.array(job.config.patches.corners(*job.size)), side) if side else images


def patches_of(job: Job, rows: Array) -> Array:
    """Return the positions of the patches of the images at some positions."""
    each = count(job)
    return np.asarray((rows[:, None] * each + np.arange(each)).ravel())


def choosers(job: Job, which: Which) -> dict[int, FoldFiles]:
    """Return the models that choose a model's patches, by fold of the images, its own fold first.

    Those of pairs are blind to the image and to the fold that the model leaves out.
    """
    assert job.config.chosen_by is not None
    files, (k,) = RunFiles(job.config.chosen_by), which.held_out
    pairs = [j for j in job.folds if j != k] if job.config.patches.nested == "pairs" else []
    return {k: files.fold(k, which.repeat)} | {j: files.pair(j, k, which.repeat) for j in pairs}


def first_said(job: Job, which: Which) -> Array:
    """Return what the models that choose say of the patches of all scored rows (N V P)."""
    models, folds = choosers(job, which), job.table.folds[job.table.scored]
    said = np.array(read_npy(models[which.held_out[0]].patches))
    for j, model in models.items():
        said[folds == j] = read_npy(model.patches)[folds == j]
    return said


def trust(job: Job, which: Which, of: str) -> Array | None:
    """Return what the first run says of the patches of the `scored`, `test` or `holdout` rows (N V P).

    By its model that left the same fold out. None: nobody but the model itself says how sure one may be of a patch.
    """
    if not job.config.chosen_by:
        return None
    files = RunFiles(job.config.chosen_by).fold(which.held_out[0], which.repeat)
    path = {"scored": files.patches, "test": files.test_patches, "holdout": files.holdout_patches}[of]
    return np.asarray(read_npy(path))


def of_truth(task: Task, y: Array, said: Array) -> Array:
    """Return the probability (N V) that predictions of patches (N V P) give to what the image is.

    Of labels the mean over the known ones.
    """
    if task.name == "multiclass":
        shares = y if y.ndim == 2 else np.eye(said.shape[2])[y]
        return np.asarray((said * shares[:, None]).sum(2))
    wide = y.reshape(len(y), 1, -1)
    known = ~np.isnan(wide)
    right = np.where(known, wide * said + (1 - wide) * (1 - said), 0.0)
    return np.asarray(right.sum(2) / np.maximum(known.sum(2), 1))


def surest(sure: Array, kept: int) -> Array:
    """Return which patches (N V, bool) are the `kept` surest of their image, the first of equals."""
    chosen = np.zeros(sure.shape, bool)
    np.put_along_axis(chosen, np.argsort(-sure, axis=1, kind="stable")[:, :kept], True, axis=1)
    return chosen


def rejected(job: Job, which: Which) -> Array:
    """Return which patches of the scored rows (N V, bool) a model is not to learn as what their image is."""
    patches, table = job.config.patches, job.table
    if not job.config.chosen_by:
        return np.zeros((len(table.scored), count(job)), bool)
    sure = of_truth(job.task, job.task.targets(table.y[table.scored]), first_said(job, which))
    return ~surest(sure, patches.kept(count(job)))


def confidence(task: Task, said: Array) -> Array:
    """Return how sure predictions (... P) are: of the likeliest class (... 1), of each label (... P).

    1 is certain, 0 no better than chance: what tells nothing weighs next to nothing, however few classes there are.
    """
    if task.name == "multiclass":
        chance = 1 / max(said.shape[-1], 2)
        return np.asarray((said.max(-1, keepdims=True) - chance).clip(0) / (1 - chance))
    return np.asarray(np.abs(2 * said - 1))


def joined(job: Job, said: Array, believed: Array | None = None, of: Array | None = None) -> Array:
    """Return for images the mean (n P) of what is said of their patches (nV P), by confidence^gamma.

    `believed` (n V P) says how confident one may be, in place of what is said. With `of` (nV F) that is joined instead.
    """
    each = count(job)
    if not job.config.patches.size:
        return said if of is None else of
    parts = said.reshape(-1, each, said.shape[1])
    sure = confidence(job.task, parts if believed is None else believed).astype(np.float64)
    weight = (sure + LEAST) ** job.config.patches.gamma
    if of is not None:
        parts, weight = of.reshape(-1, each, of.shape[1]), weight.mean(2, keepdims=True)
    done = (weight * parts).sum(1) / weight.sum(1)
    return np.asarray(done, said.dtype if of is None else of.dtype)


def of_images(job: Job, seen: Array) -> Array:
    """Return for images the mean (N S) of what is known (not NaN) of their patches (NV S)."""
    each = count(job)
    if each == 1:
        return seen
    parts = seen.reshape(-1, each, seen.shape[1])
    known = ~np.isnan(parts)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, parts, 0).sum(1) / known.sum(1), seen.dtype)


def refusal(job: Job) -> str | None:
    """Return why patches are not for a task, None where they are."""
    if job.task.name not in ("binary", "multiclass", "multilabel"):
        return f"a {job.task.name} task has no classes to be confident of"
    if job.competition.images.view:
        return "a row of several views is not cut"
    odd = job.config.patches.background and (job.task.name != "multiclass" or job.competition.soft)
    return "background = true adds a class to those of a multiclass task with hard labels" if odd else None
