"""Fit one model of a run with masks."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.images.augment import augmenter
from pipeline.images.dense import Dense, DenseViews, distances
from pipeline.images.ragged import Ragged
from pipeline.nets.heads import start_masks
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.mask_objective import MaskObjective
from pipeline.nets.normalize import of_images
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array, write_npy
from pipeline.store.tracking import Tracker
from pipeline.training.adversarial import attack_of
from pipeline.training.alarm import Alarm
from pipeline.training.balance import balanced, evened, looks
from pipeline.training.engine import fit
from pipeline.training.job import Job
from pipeline.training.lessons import training_rows
from pipeline.training.mask_job import look_of, mask_objective, new_mask_network, size_of, truth_of
from pipeline.training.mask_lessons import MaskCourse, mask_course
from pipeline.training.mask_predict import predicted
from pipeline.training.mask_score import Scores
from pipeline.training.readable import labelled
from pipeline.training.sampling import Lessons
from pipeline.training.weights import save_weights, start_from
from pipeline.training.which import Which

log = logging.getLogger(__name__)


def fit_masks(job: Job, which: Which, tracker: Tracker) -> None:
    """Train one model on the images and masks that it may learn from, and write its weights (or every epoch's)."""
    job = job.within(which)
    config, table, files = job.config, job.table, which.files(job.files)
    started = time.monotonic()
    for stale in (files.rows, files.epochs):  # of another config: with them a fit that is killed would look done
        stale.unlink(missing_ok=True)
    images, course, views = mask_views(job, which)
    network, objective = fresh_mask_network(job, which, course)
    rows, seed, dense = table.labelled, which.seed(config.seed), views.dense
    title = f"{job.files.run} {which.title}"
    coverage: Array = np.where(shown(job, rows), table.y[rows], 0).max(1)
    watch = Alarm(
        network.heads, size_of(job), job.competition.masks.exclusive, coverage, len(course.lessons.gold), title
    )

    def evaluate(current: nn.Module) -> dict[str, float]:
        assert isinstance(current, MaskNetwork)
        held_out = np.flatnonzero(np.isin(table.folds[table.scored], which.held_out))
        return measured(job, current, images, held_out) if len(held_out) else {}

    def keep(entry: dict[str, Any], current: nn.Module) -> None:
        score = entry[job.chosen_by]
        save_weights(files.epoch(entry["epoch"]), current, key=job.fit_key, epoch=entry["epoch"], curve=[score])

    fitted = fit(
        network, objective, images=course.images, targets=torch.zeros(len(course.rows), 0),
        weights=course.weights, lessons=course.lessons, watch=watch, names=table.ids[course.rows],
        augment=views.augment, machine=job.machine, evaluate=evaluate, record=tracker.log,
        keep=keep if config.select == "best" else None, checkpoint=files.last, key=job.fit_key, log_file=files.log,
        title=title, seed=seed, epochs=config.epochs, batch_size=job.batch_size, optimizer=config.optim.name,
        dense=views, masks=dense.masks, compiled=config.compile,
        **config.augment.model_dump(exclude={"recipe"}), **config.optim.model_dump(exclude={"name"}),
        attack=attack_of(config.adversarial), **config.average.model_dump(),
    )  # fmt: skip
    write_npy(files.rows, course.learnt.astype(np.int32))
    write_npy(files.epochs, watch.table()[: len(table.scored)])
    if config.select == "last":
        save_weights(files.model, fitted, key=job.fit_key, epoch=config.epochs - 1)
    files.last.unlink(missing_ok=True)
    log.info("%s: trained on %d rows in %.1f s", title, len(course.learnt), time.monotonic() - started)


def mask_views(job: Job, which: Which) -> tuple[Ragged, MaskCourse, DenseViews]:
    """Return the labelled images, what a model learns from, and the views of it."""
    config, table = job.config, job.table
    images, bad = labelled(job, job.ragged)
    rows, truth = table.labelled, truth_of(job)
    depth = distances(job.files.competition, truth, rows, table.sizes[rows]) if config.loss.distance else None
    lessons, show = lessons_of(job, training_rows(job, which, bad))
    if config.sampling.balance == "clusters":
        x = looks(job, images, lessons.gold)
        lessons = evened(lessons, x, config.sampling, which.seed(config.seed))
    course = mask_course(job, which, images, lessons)
    dense = Dense(course.images, truth, rows, depth, course.soft)
    augment = augmenter(config.augment.recipe, masks=dense.masks)
    views = DenseViews(dense, augment, which.seed(config.seed), config.image.fit, size_of(job), show)
    return images, course, views


def fresh_mask_network(job: Job, which: Which, course: MaskCourse) -> tuple[MaskNetwork, MaskObjective]:
    """Return the network of a model before its first step, seeded and measured on its training rows; its objective."""
    torch.manual_seed(which.seed(job.config.seed))
    network, gold, how = new_mask_network(job), course.lessons.gold, job.config.model
    cover = job.table.y[course.rows[gold]]
    start_masks(network, cover, job.competition.masks.exclusive, how.head_init, how.head_bias)
    if job.config.image.normalize == "train":
        network.mean, network.std = of_images((course.images[int(row)] for row in gold), course.images.channels)
    if job.config.init:
        start_from(job, which, network)
    return network, mask_objective(job, network.heads, course.rows[gold])


def shown(job: Job, rows: Array) -> Array:
    """Return which classes (N C, bool) the masks of some rows show; of exclusive ones the first is background."""
    there = job.table.y[rows] > 0
    if job.competition.masks.exclusive:
        there[:, 0] = False
    return there


def lessons_of(job: Job, gold: Array) -> tuple[Lessons, tuple[int, ...]]:
    """Return how rows are drawn, and which classes tiles of them show in turn."""
    how, rows = job.config.sampling, job.table.labelled[gold]
    if how.equal:
        shows = job.table.y[rows] > 0  # of exclusive classes the background takes its turn too
        return Lessons(gold, gold[:0], shows=shows, equal=True), tuple(np.flatnonzero(shows.any(0)).tolist())
    if how.balance == "clusters":
        return Lessons.of(gold), ()
    if how.non_empty is None:
        return balanced(Lessons.of(gold), shown(job, rows), job.table.classes, how), ()
    first, last = how.non_empty
    return Lessons(gold, gold[:0], shows=shown(job, rows), non_empty=(first, last)), (len(job.table.classes),)


def measured(job: Job, network: MaskNetwork, images: Ragged, held_out: Array) -> dict[str, float]:
    """Return the log loss of pixels and the metric (masks above a half) of some scored rows."""
    scores = Scores(job, job.table.scored[held_out])
    sizes = job.table.sizes[job.table.scored[held_out]]
    # From one view, so that the choice of an epoch hangs on nothing that predicts alone.
    look = replace(look_of(job), tta="none")
    for maps, present in predicted(network, images, held_out, sizes, look, job.machine):
        scores.add(maps, present)
    problem = Problem.of(job.table, job.task, job.metric).part(held_out)
    return {"valid_loss": scores.loss, f"valid_{job.metric.name}": problem.score(scores.stats)}
