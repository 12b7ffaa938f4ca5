"""Fit one model of a run."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.nets.heads import prior, set_bias, start_head
from pipeline.nets.losses import Goal
from pipeline.nets.models import Network, to_prediction
from pipeline.nets.normalize import of_rows
from pipeline.scoring.problem import Problem
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, write_npy
from pipeline.store.tracking import Tracker
from pipeline.training.adversarial import attack_of
from pipeline.training.auxiliary import widened
from pipeline.training.engine import fit
from pipeline.training.job import Job, new_network
from pipeline.training.layers import freeze_for
from pipeline.training.lessons import Course, plan
from pipeline.training.mask_fold import fit_masks
from pipeline.training.mask_job import NAME
from pipeline.training.metric_learning import margined, tripled
from pipeline.training.patches import count, cut, joined, of_images, patches_of, trust
from pipeline.training.predict import scores
from pipeline.training.readable import labelled_images
from pipeline.training.semi import Adaptation
from pipeline.training.unlabelled import Drawn, Pairs, unlabelled_of
from pipeline.training.watch import Watch
from pipeline.training.weights import save_weights, start_from
from pipeline.training.which import Which

log = logging.getLogger(__name__)


def fit_fold(job: Job, which: Which, tracker: Tracker) -> None:
    """Train one model on what it may learn from and write its weights (or every epoch's)."""
    if job.task.name == NAME:
        return fit_masks(job, which, tracker)
    job = job.within(which)
    config, table, files = job.config, job.table, which.files(job.files)
    started = time.monotonic()
    for stale in (files.rows, files.epochs):  # of another config: with them a fit that is killed would look done
        stale.unlink(missing_ok=True)
    images, bad = labelled_images(job)
    shown = cut(job, images)
    course = plan(job, which, images, bad)
    held_out = np.flatnonzero(np.isin(table.folds[table.scored], which.held_out))
    everything = Problem.of(table, job.task, job.metric)
    y, problem = np.repeat(everything.hard, count(job), axis=0), everything.part(held_out)
    believed = trust(job, which, "scored")
    seed = which.seed(config.seed)
    network, objective = fresh_network(job, which, course), course.objective
    freeze: str = config.optim.freeze
    if freeze == "auto":
        labels = job.task.harden(job.task.targets(table.y[np.unique(course.rows[course.lessons.gold])]))
        freeze = freeze_for(labels, len(table.classes))
        log.info("%s %s: optim.freeze = auto is %r", job.files.run, which.title, freeze)
    width = job.task.width(len(table.classes))
    # Indicators among the extra rows are watched by nobody: only scored rows have a place on the shelf.
    marked = np.isin(np.arange(len(y)), course.indicators)
    watched = np.where(marked, len(table.classes), y) if network.extra else y
    goal, targets = goal_of(job, course, network)
    columns = network.head.out_features
    watch = Watch(job.task, job.head, watched, width, objective.center, objective.spread, columns)

    def evaluate(current: nn.Module) -> dict[str, float]:
        if not len(held_out):
            return {}
        at = patches_of(job, held_out)
        raw = scores(current, shown, at, machine=job.machine, batch_size=config.predict.batch_size)
        real = raw[:, : raw.shape[1] - network.extra]
        prediction = to_prediction(job.task, job.head, real, objective.center, objective.spread).numpy()
        prediction = joined(job, prediction, None if believed is None else believed[held_out])
        loss = objective.loss(raw, course.targets[at]).mean().item()
        return {"valid_loss": loss, f"valid_{job.metric.name}": problem.score(prediction)}

    def keep(entry: dict[str, Any], current: nn.Module) -> None:
        score = entry[job.chosen_by]
        save_weights(files.epoch(entry["epoch"]), current, key=job.fit_key, epoch=entry["epoch"], curve=[score])

    adaptation, unlabelled = adaptation_of(job, which, network, course, (images, bad))
    fitted = fit(
        network, goal, images=course.images, targets=targets, weights=course.weights,
        lessons=course.lessons, watch=watch, names=table.ids[course.rows],
        augment=augmenter(config.augment.recipe, config.image.crop), machine=job.machine, evaluate=evaluate,
        record=tracker.log, keep=keep if config.select == "best" else None, checkpoint=files.last, key=job.fit_key,
        log_file=files.log, title=f"{job.files.run} {which.title}", seed=seed, epochs=config.epochs,
        batch_size=job.batch_size, compiled=config.compile, optimizer=config.optim.name, freeze=freeze,
        **config.augment.model_dump(exclude={"recipe"}), **config.optim.model_dump(exclude={"name", "freeze"}),
        attack=attack_of(config.adversarial), adaptation=adaptation, **config.average.model_dump(),
    )  # fmt: skip
    learnt = np.concatenate([course.lessons.gold, course.lessons.extra])
    rows = np.unique(course.rows[learnt])
    write_npy(files.rows, rows.astype(np.int32))
    seen = watch.table()
    aum = seen[marked, width + 1]
    seen[marked] = np.nan
    write_npy(files.epochs, of_images(job, seen))
    if config.select == "last":
        facts: dict[str, Any] = {"indicators": float(np.quantile(aum, 0.99))} if config.indicators else {}
        facts |= {"freeze": freeze} if config.optim.freeze == "auto" else {}
        facts |= {"unlabelled": {which.target: digest(*table.ids[unlabelled])}} if adaptation else {}
        save_weights(files.model, fitted, key=job.fit_key, epoch=config.epochs - 1, **facts)
    files.last.unlink(missing_ok=True)
    took = time.monotonic() - started
    log.info("%s %s: trained on %d rows in %.1f s", job.files.run, which.title, len(rows), took)


def adaptation_of(
    job: Job, which: Which, network: Network, course: Course, labelled: tuple[Rows, dict[int, str]]
) -> tuple[Adaptation | None, Array]:
    """Return what a model learns from images without labels, if anything, and the positions in the table of these."""
    how, seed = job.semi, which.seed(job.config.seed)
    if how.method == "none":
        return None, np.zeros(0, np.int64)
    found = unlabelled_of(job, which, *labelled)
    if not len(found.rows):
        raise UserError(f'{job.files.config}: semi.method = "{how.method}": {which.title} has no images to adapt to')
    pupils = [network]
    if how.method == "mmt":
        with torch.random.fork_rng():
            pupils.append(fresh_network(job, replace(which, half=1), course))  # of another seed
    steps = -(-len(course.lessons.gold) // job.batch_size)
    drawn = Drawn(found.rows, max(1, round(how.ratio * job.batch_size)), steps, seed)
    pairs = Pairs(found.images, augmenter(job.config.augment.recipe, job.config.image.crop), seed)
    school = Adaptation(how, job.task, job.head, course.objective, pupils, pairs, drawn, job.machine)
    return school, found.table


def goal_of(job: Job, course: Course, network: Network) -> tuple[Goal, Tensor]:
    """Return the objective of all that a network gives in training (its head's scores first), and the targets N D."""
    columns, scored = network.head.out_features, margined(job, course.objective)
    goal, targets = widened(job, scored, course.targets, course.rows, course.lessons.gold, columns)
    return tripled(job, goal, network.width, columns), targets


def fresh_network(job: Job, which: Which, course: Course) -> Network:
    """Return the network of a model before its first step: seeded, measured on its training rows."""
    torch.manual_seed(which.seed(job.config.seed))
    network, gold = new_network(job), course.lessons.gold
    head = start_head(network.head, job.config.model.head_init)
    if job.config.model.head_bias == "prior":
        y = job.task.targets(job.table.y[course.rows[gold]])
        set_bias(head, prior(course.objective, y, course.weights[gold]))
    if job.head != "classification":
        network.center, network.spread = course.objective.center, course.objective.spread
    if network.beside is not None:
        network.beside.measure(torch.as_tensor(job.table.meta[course.rows[gold]]))
    if job.config.image.normalize == "train":
        network.mean, network.std = of_rows(course.images, gold, network.mean.shape[1])
    if job.config.init:
        start_from(job, which, network)
    return network
