"""The fast baseline: features of a network that stays as it is, computed once, and a head of scikit-learn on them."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.images.cache import Rows
from pipeline.scoring.problem import Problem
from pipeline.scoring.stack import Stack
from pipeline.store.files import Array, digest, digest_bytes, digest_file, digest_json, lock, read_npy, write_npy
from pipeline.store.keys import own_code
from pipeline.store.tracking import Tracker
from pipeline.training.inference import ready
from pipeline.training.job import Job, new_network
from pipeline.training.lessons import training_rows
from pipeline.training.posthoc import adjusted
from pipeline.training.predict import embed, views_of
from pipeline.training.readable import every_image, labelled_images
from pipeline.training.shelf import sign
from pipeline.training.watch import Watch
from pipeline.training.which import Which

log = logging.getLogger(__name__)


def fit_frozen(job: Job, which: Which, tracker: Tracker) -> None:
    """Fit the head of one model on what it may learn from, predict, and write its shelf; the receipt comes last."""
    job = job.within(which)
    started, table, files = time.monotonic(), job.table, which.files(job.files)
    images, bad = labelled_images(job)
    x, gold = beside(job, images, table.labelled), training_rows(job, which, bad)
    everything = Problem.of(table, job.task, job.metric, table.labelled)
    # The head's own setting is chosen over the folds it learns from; extra rows (code < 0) are never scored for it.
    everything = replace(everything, folds=np.maximum(everything.folds, -1))
    method = "boosted" if job.config.fit == "boosted" else "logistic" if job.task.probabilities else "ridge"
    head = Stack(everything, x, method, job.config.seed, job.config.sampling.synthetic)
    fitted = head.fit(np.isin(np.arange(len(x)), gold))
    scored = np.isin(table.folds[table.scored], which.held_out)

    def say(features: Array) -> Array:
        return adjusted(job, head.predict(fitted, features), table.labelled[gold])

    train = say(x[: len(table.scored)])
    write_npy(files.rows, np.sort(table.labelled[gold]).astype(np.int32))
    write_npy(files.train, train)
    write_npy(files.oof, train[scored])
    write_npy(files.epochs, seen_once(job, train, gold))
    others = {"test": table.test} | ({"holdout": table.holdout} if len(table.holdout) else {})
    for name, rows in others.items():
        who = "test row" if name == "test" else "row of the holdout"
        features = beside(job, every_image(job, rows, who), rows)
        write_npy(getattr(files, name), say(features))
        if name == "test":
            both = np.concatenate([x[: len(scored)], features])
            write_npy(files.embeddings, both[:, : x.shape[1] - table.meta.shape[1]].astype(np.float16))
            write_npy(files.spread, np.zeros(len(scored) + len(rows), np.float32))
    facts: dict[str, Any] = {
        "half": None,
        "trained_on": {"rows": len(gold), "ids": digest(*table.ids[np.sort(table.labelled[gold])])},
        "chosen_on": [],
        "bad_images": len(bad),
    }
    kept = [files.rows, files.oof, files.test, files.train, files.embeddings, files.spread, files.epochs]
    score = sign(job, which, [*kept, *([files.holdout] if "holdout" in others else [])], train[scored], facts)
    tracker.summary({f"oof_{job.metric.name}": score, "rows": int(scored.sum())})
    log.info("%s %s: %s head in %.1f s", job.files.run, which.title, method, time.monotonic() - started)


def beside(job: Job, images: Rows, rows: Array) -> Array:
    """Return features and metadata (N F + M) of some rows of the table."""
    return np.column_stack([features(job, images, rows), job.table.meta[rows]]).astype(np.float32)


def features(job: Job, images: Rows, rows: Array) -> Array:
    """Return pooled features (N F, float32), mean over the views of `predict.tta`, computed once for folds and runs."""
    config, files = job.config, job.files.competition
    how = [config.model.model_dump(), config.image.model_dump(), config.predict.tta, job.machine.precision]
    how += [] if job.inference == "same" else [job.inference]
    seed = config.seed if config.model.weights == "none" or config.model.aggregate != "mean" else None
    contract = job.competition.images.model_dump()
    weights, stats = Path(config.model.weights), images.stats
    known = [own_code(how), own_code(contract), digest_file(weights) if weights.is_file() else None]
    known.append(None if stats is None else digest_bytes(stats.tobytes()))
    key = digest(*job.table.digests[rows], digest_json([how, seed, contract, known]))
    target = files.features / f"{key}.npy"
    with lock(target.with_suffix(".lock"), f"the features of {files.name}"):
        if not target.exists():
            started = time.monotonic()
            torch.manual_seed(config.seed)
            network = ready(job.machine.place(new_network(job)), job.inference, job.seen)
            see = partial(embed, network, images, machine=job.machine, batch_size=config.predict.batch_size)
            views = views_of(config.predict.tta, config.image.crop)
            found = [np.concatenate([part.float().numpy() for part, _ in see(view=view)]) for view in views]
            write_npy(target, np.asarray(np.mean(found, 0, dtype=np.float64), np.float32))
            log.info("%s: features of %d images in %.1f s", job.files.run, len(rows), time.monotonic() - started)
    return np.asarray(read_npy(target))


def seen_once(job: Job, train: Array, gold: Array) -> Array:
    """Return what `Watch` would tell of a head that looks at its training rows once, when it is done."""
    table, task = job.table, job.task
    everything, p = Problem.of(table, task, job.metric), torch.from_numpy(train.astype(np.float64))
    y, mine = everything.hard, gold[gold < len(table.scored)]
    center, spread = torch.zeros(p.shape[1]), torch.ones(p.shape[1])
    if task.probabilities:
        p = p.clamp(1e-6, 1 - 1e-6)
        scores = p.log() if task.name == "multiclass" else p.logit()
    else:
        scores, spread = p, torch.as_tensor(np.std(y[mine].reshape(len(mine), -1), 0)).clamp(min=1e-6).float()
        center, scores = torch.zeros_like(spread), p / spread
    head = "classification" if task.probabilities else "regression"
    watch = Watch(task, head, y, task.width(len(table.classes)), center, spread)
    watch.see(torch.from_numpy(mine), scores[mine].float())
    return watch.table()
