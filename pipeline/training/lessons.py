"""What a model learns from: labelled rows, pseudo-labels, a teacher, tags; nothing that saw the folds it leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.images.cache import Rows
from pipeline.nets.joint import objective_of
from pipeline.nets.objective import Objective
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, read_npy
from pipeline.store.imbalance import Sampling
from pipeline.store.patches import has_background
from pipeline.store.shelves import leaves
from pipeline.training.balance import balanced, evened, looks, shows_of
from pipeline.training.job import Job
from pipeline.training.patches import choosers, count, cut, patches_of, rejected
from pipeline.training.sampling import Lessons
from pipeline.training.weights import start_of
from pipeline.training.which import Which

NATURAL = Sampling()


@dataclass(frozen=True)
class Course:
    """Images, targets N D, loss weights N and table positions of the scored rows, the extra rows, then of the test rows
    where some are learnt; with [patches] of the patches of them all.

    `indicators` are the rows that were given a class of their own (AUM, Pleiss 2020).
    """

    objective: Objective
    images: Rows
    targets: Tensor
    weights: Tensor
    rows: Array
    lessons: Lessons
    indicators: Array


def plan(job: Job, which: Which, images: Rows, bad: dict[int, str]) -> Course:
    """Put together what a model learns from."""
    config, table, rows = job.config, job.table, job.table.labelled
    y = job.task.targets(table.y[rows])
    gold = training_rows(job, which, bad)
    tags = read_tags(job, which) if config.tags else None
    if tags is not None and config.difficulty.suspect == "drop":
        gold = gold[(tags.tag.to_numpy()[gold]) != "suspect"]
    classes, marked = len(table.classes), gold[:0]
    if config.indicators:
        marked = gold[np.argsort([digest(str(i), str(config.seed)) for i in table.ids[rows][gold]])]
        marked = marked[: max(1, len(gold) // (classes + 1))]
        y, classes = np.where(np.isin(np.arange(len(y)), marked), classes, y), classes + 1
    if config.patches.size:
        images, rows, y = cut(job, images), np.repeat(rows, count(job)), np.repeat(y, count(job), axis=0)
        gold, marked = chosen_patches(job, which, gold)
        if has_background(config):
            y[marked], classes = classes, classes + 1
    follow: dict[str, Any] = config.distill.model_dump(exclude={"nested"}) if config.teacher else {}
    objective = objective_of(job.task, job.head, classes, y[gold], **config.loss.model_dump(), **follow)
    targets, weights = objective.encode(y), torch.tensor(table.weights[rows], dtype=torch.float32)
    weights = weights / weights[gold].mean().clamp(min=1e-9)  # so that the learning rate means the same
    if tags is not None:
        targets, trust = with_tags(job, objective, targets, tags)
        weights = weights * trust
    if config.teacher:
        said = torch.zeros_like(targets)  # of the extra rows, which a course with a teacher leaves out, it says nothing
        said[: len(table.scored)] = objective.soften(teacher_says(job, which))
        targets = torch.cat([targets, said], 1)
    lessons = lessons_of(job, gold, tags)
    if config.sampling.balance == "clusters":
        x = looks(job, images, lessons.gold)
        lessons = evened(lessons, x, config.sampling, which.seed(config.seed))
    elif config.sampling != NATURAL:
        lessons = balanced(lessons, shows_of(job.task, y[gold], classes), table.classes, config.sampling)
    course = Course(objective, images, targets, weights, rows, lessons, marked)
    return with_pseudo(job, which, course) if config.pseudo else course


def chosen_patches(job: Job, which: Which, gold: Array) -> tuple[Array, Array]:
    """Return which patches of some rows a model trains on, and those among them that are background."""
    mine = patches_of(job, gold)
    if not job.config.chosen_by:
        return mine, mine[:0]
    odd = rejected(job, which).ravel()[mine]
    return (mine, mine[odd]) if has_background(job.config) else (mine[~odd], mine[:0])


def training_rows(job: Job, which: Which, bad: dict[int, str]) -> Array:
    """Return which labelled rows a model trains on: all but its own folds, what is of them, and unreadable images."""
    usable = job.table.foreign(which.held_out)
    usable[list(bad)] = False
    if job.config.teacher or job.config.chosen_by:
        usable[len(job.table.scored) :] = False
    return np.asarray(np.flatnonzero(usable))


def lessons_of(job: Job, gold: Array, tags: pd.DataFrame | None) -> Lessons:
    """Return the lessons of the labelled rows, as the tags would have them drawn."""
    wanted = job.config.difficulty
    if tags is None:
        return Lessons.of(gold)
    # A suspect is never drawn more often than others, however hard it is.
    draw = np.where(tags.tag.to_numpy()[gold] == "hard", wanted.hard, 1.0)
    ease = tags.difficulty.to_numpy(float)[gold] if wanted.curriculum else None
    return Lessons(
        gold, gold[:0], draw=draw if wanted.hard > 1 else None, difficulty=ease, curriculum=wanted.curriculum
    )


def read_tags(job: Job, which: Which) -> pd.DataFrame:
    """Return the tags of all scored rows that models blind to a fold gave; its own rows have none."""
    assert job.config.tags is not None
    path = RunFiles(job.config.tags).difficulty_train
    frame = pd.read_csv(path, dtype={"id": str, "tag": str}, keep_default_na=False, na_values={"difficulty": [""]})
    mine = frame[(frame["repeat"] == which.repeat) & (frame["fold"] == which.held_out[0])].set_index("id")
    return mine.reindex(job.table.ids[job.table.labelled])


def with_tags(job: Job, objective: Objective, targets: Tensor, tags: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Relabel or down-weight the suspects; return targets and loss weights."""
    suspect = torch.tensor(np.array(tags.tag == "suspect"))
    weights = torch.ones(len(targets))
    if job.config.difficulty.suspect == "downweight":
        weights = torch.tensor(tags.weight.fillna(1.0).to_numpy(np.float32))
    if job.config.difficulty.suspect == "relabel":
        said = tags.filter(regex=r"^t\d+$").apply(pd.to_numeric).to_numpy(np.float32)
        targets = torch.where(suspect[:, None], objective.encode_prediction(np.nan_to_num(said)), targets)
    return targets, weights


def teacher_says(job: Job, which: Which) -> Array:
    """Return the teacher's predictions (N P) of the scored rows, by models blind to the folds a model leaves out.

    Those of the teacher's own model k have trained on the other rows; with `pairs` each row is predicted by the model
    that saw neither its own fold nor fold k.
    """
    assert job.config.teacher is not None
    folds, said = job.table.folds[job.table.scored], []
    for leaf in leaves(job.config.teacher):
        models = teachers(job, which, leaf)
        rows = np.array(read_npy(models[which.held_out[0]].train))
        for j, model in models.items():
            rows[folds == j] = read_npy(model.train)[folds == j]
        said.append(rows)
    return np.asarray(np.mean(said, 0, dtype=np.float64).astype(np.float32))


def teachers(job: Job, which: Which, leaf: str) -> dict[int, FoldFiles]:
    """Return the models of a leaf that teach a model: by fold of the rows they speak of, its own fold first."""
    files, (k,) = RunFiles(leaf), which.held_out
    pairs = [j for j in job.folds if j != k] if job.config.distill.nested == "pairs" else []
    return {k: files.fold(k, which.repeat)} | {j: files.pair(j, k, which.repeat) for j in pairs}


def sources(job: Job, which: Which) -> dict[str, list[Path]]:
    """Return the files of other runs that a model learns from, by role."""
    config, found = job.config, {}
    if config.pseudo:
        files, (k,) = RunFiles(config.pseudo), which.held_out
        found["pseudo"] = [files.pseudo, *([files.pseudo_maps(which.repeat, k)] if job.task.dense else [])]
    if config.tags:
        found["tags"] = [RunFiles(config.tags).difficulty_train]
    if config.teacher:
        models = [model for leaf in leaves(config.teacher) for model in teachers(job, which, leaf).values()]
        found["teacher"] = [model.train for model in models]
    if config.chosen_by:
        found["chosen_by"] = [model.patches for model in choosers(job, which).values()]
    if config.init:
        found["init"] = [start_of(job, which)]
    return found


def named_rows(job: Job, which: Which) -> tuple[pd.DataFrame, Array]:
    """Return the pseudo-labels that name the models of a fold, of both halves, and which test rows (n,) they are of."""
    assert job.config.pseudo is not None
    path = RunFiles(job.config.pseudo).pseudo
    frame = pd.read_csv(path, dtype={"id": str}, keep_default_na=False, na_values=[""])
    named = frame[(frame["repeat"] == which.repeat) & (frame["fold"] == which.held_out[0])]
    at = pd.Index(job.table.ids[job.table.test]).get_indexer(pd.Index(named["id"]))
    mine = at[of_half(named, which)]
    if not len(mine) or mine.min() < 0:
        raise UserError(f"{path} has no rows for {which.title}, or ids that are no test rows")
    return named, at


def of_half(named: pd.DataFrame, which: Which) -> Array:
    """Return which pseudo-labels (a mask) name a model's half."""
    return np.asarray(named["half"] == (-1 if which.half is None else which.half))


def with_pseudo(job: Job, which: Which, course: Course) -> Course:
    """Add the pseudo-labelled test rows that name this model to a course."""
    table, (named, at) = job.table, named_rows(job, which)
    images, unreadable = job.images(table.test)
    chosen = of_half(named, which) & ~np.isin(at, list(unreadable))
    mine, at = named[chosen], at[chosen]
    said, weight = (part.to_numpy(np.float32, copy=True) for part in (mine.filter(regex=r"^t\d+$"), mine["weight"]))
    n, test, student = len(course.targets), table.test, job.config.student
    targets = torch.zeros(len(test), course.targets.shape[1])
    targets[at] = course.objective.encode_prediction(said)
    weights = torch.zeros(len(test))
    weights[at] = torch.as_tensor(weight)
    return Course(
        course.objective,
        course.images.followed_by(images),
        torch.cat([course.targets, targets]),
        torch.cat([course.weights, weights]),
        np.concatenate([course.rows, table.test]),
        replace(course.lessons, extra=n + at, share=student.share, mode=student.mode),
        course.indicators,
    )
