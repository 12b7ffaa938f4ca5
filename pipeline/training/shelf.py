"""Predict with the models of a run and leave what later stages read; a model's receipt is written last."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.images.cache import Rows
from pipeline.nets.models import Network, to_prediction
from pipeline.scoring.problem import Problem
from pipeline.scoring.pseudo import sureness
from pipeline.store.files import Array, digest, digest_file, read_npy, write_npy
from pipeline.store.receipts import write_receipt
from pipeline.store.table import TEST, half_of
from pipeline.store.tracking import Tracker
from pipeline.training.adapt import ready_for
from pipeline.training.inference import ready
from pipeline.training.job import Job
from pipeline.training.lessons import sources
from pipeline.training.mask_job import NAME
from pipeline.training.mask_shelf import join_mask_halves, predict_masks
from pipeline.training.patches import cut, joined, patches_of, trust
from pipeline.training.posthoc import predictor
from pipeline.training.predict import embed, predict, through
from pipeline.training.readable import every_image
from pipeline.training.weights import header_of
from pipeline.training.which import Which


def predict_fold(job: Job, which: Which, tracker: Tracker) -> None:
    """Predict with one model the rows it never saw, those it trained on and the test rows; the receipt comes last."""
    if job.task.name == NAME:
        return predict_masks(job, which, tracker)
    job = job.within(which)
    if which.target == "test":
        return predict_test(job, which)
    table, files = job.table, which.files(job.files)
    started = time.monotonic()
    trained = predictor(job, which)
    network = ready(trained, job.inference, job.seen)
    scored, test = table.scored, table.test
    held_out = np.flatnonzero(np.isin(table.folds[scored], which.held_out))
    images, bad = job.images(scored)
    test_images, real = every_image(job, test), np.flatnonzero(table.folds[test] == TEST)
    believed, on_tests = trust(job, which, "scored"), trust(job, which, "test")
    on_own = ready_for(job, trained, images, held_out, network)
    on_test = ready_for(job, trained, test_images, real, network)
    mine = None if believed is None else believed[held_out]
    train, features, patches = embedded(job, network, images, believed)
    if on_own is not network:
        _, features[held_out], patches[held_out] = embedded(job, on_own, images, mine, held_out)
    once, test_features, test_patches = embedded(job, on_test, test_images, on_tests)
    oof, spread = look_twice(job, on_own, images, held_out, believed=mine)
    if job.semi.method == "none":
        told, test_spread = look_twice(job, on_test, test_images, np.arange(len(test)), once, on_tests)
    else:  # features of two models share no axes: all are of this one, predictions of the one that is adapted to them
        told, test_spread = (np.asarray(read_npy(path)) for path in (files.for_test.test, files.for_test.spread))
    spreads = np.full(len(scored), np.nan, np.float32)
    spreads[held_out] = spread
    train[held_out] = oof
    write_npy(files.oof, oof)
    write_npy(files.test, told)
    write_npy(files.train, train)
    write_npy(files.embeddings, np.concatenate([features, test_features]))
    write_npy(files.spread, np.concatenate([spreads, test_spread]))
    facts = facts_of(job, which, bad, started) | looked_at(job, scored[held_out], test[real])
    if network is not trained:
        facts["inference"] = {"way": job.inference, "moved": moved(job, trained, network, images, held_out[:64])}
    outputs = [
        files.model,
        files.rows,
        files.oof,
        files.test,
        files.train,
        files.embeddings,
        files.spread,
        files.epochs,
    ]
    if job.semi.method != "none":
        outputs.append(files.for_test.receipt)
        facts["for_test"] = True
    single, kept_apart = len(which.held_out) == 1, {files.patches: patches, files.test_patches: test_patches}
    for path, said in list(kept_apart.items())[: (1 + single) * chooses(job)]:
        write_npy(path, said)
        outputs.append(path)
    if len(table.holdout) and single:
        kept = every_image(job, table.holdout, "row of the holdout")
        every = np.arange(len(kept))
        on_kept = ready_for(job, trained, kept, every, network)
        write_npy(files.holdout, look_twice(job, on_kept, kept, every, believed=trust(job, which, "holdout"))[0])
        outputs.append(files.holdout)
        if chooses(job):
            write_npy(files.holdout_patches, embedded(job, on_kept, kept)[2])
            outputs.append(files.holdout_patches)
    score = sign(job, which, outputs, oof, facts)
    tracker.summary({f"oof_{job.metric.name}": score, "rows": len(held_out)})
    columns = {f"p{c}": oof[:, c] for c in range(oof.shape[1])}
    tracker.table("oof", {"id": table.ids[scored][held_out], **columns})
    tracker.artifact(f"{job.files.run}-{which.title}".replace(" ", ""), "model", files.model)


def facts_of(job: Job, which: Which, bad: dict[int, str], started: float) -> dict[str, Any]:
    """Return what a receipt tells of how a model was fitted, and how long its predictions took."""
    files = which.files(job.files)
    learnt, header = read_npy(files.rows), header_of(files.model)
    facts: dict[str, Any] = {
        "half": which.half,
        "trained_on": {"rows": len(learnt), "ids": digest(*job.table.ids[learnt])},
        "epoch": header["epoch"],
        "chosen_on": [k for k in job.folds if k not in which.held_out] if job.config.select == "best" else [],
        "bad_images": len(bad),
        "predict_seconds": round(time.monotonic() - started, 3),
    }
    if "freeze" in header:
        facts["freeze"] = header["freeze"]
    if "unlabelled" in header:
        facts["unlabelled"] = header["unlabelled"]
    if "indicators" in header:
        facts["indicators"] = {"threshold": header["indicators"]}
    return facts


def predict_test(job: Job, which: Which) -> None:
    """Predict the test rows with the model that was adapted to them."""
    table, files, started = job.table, which.files(job.files), time.monotonic()
    trained, images = predictor(job, which), every_image(job, table.test)
    real = np.flatnonzero(table.folds[table.test] == TEST)
    network = ready_for(job, trained, images, real, ready(trained, job.inference, job.seen))
    said, spread = look_twice(job, network, images, np.arange(len(table.test)))
    write_npy(files.test, said)
    write_npy(files.spread, spread)
    facts = facts_of(job, which, {}, started) | looked_at(job, None, table.test[real])
    sign(job, which, [files.model, files.rows, files.test, files.spread, files.epochs], None, facts)


def looked_at(job: Job, own: Array | None, test: Array) -> dict[str, Any]:
    """Return what a receipt tells of the rows (of the table) whose images, without labels, batch norms were adapted to.

    `own` are None of a model that predicts the test rows alone.
    """
    if job.config.predict.bn == "off":
        return {}
    looked = {"fold": own, "test": test}
    return {"adapted": {name: digest(*job.table.ids[rows]) for name, rows in looked.items() if rows is not None}}


def moved(job: Job, trained: Network, network: Network, images: Rows, rows: Array) -> float:
    """Return how far (mean absolute difference) a way to predict moves the predictions of some rows."""
    how: dict[str, Any] = {"machine": job.machine, "tta": "none", "batch_size": job.config.predict.batch_size}
    shown, at = cut(job, images), patches_of(job, rows)
    first, second = (predict(net, job.task, job.head, shown, at, **how)[0] for net in (trained, network))
    return round(float(np.abs(first - second).mean()), 6)


def look_twice(
    job: Job,
    network: Network,
    images: Rows,
    rows: Array,
    once: Array | None = None,
    believed: Array | None = None,
) -> tuple[Array, Array]:
    """Return predictions (N P) and spread (N) of some rows; those left least sure are seen through more views.

    `once`: what the network said of these rows, in batches like these, by the view that is the only one without TTA.
    `believed`: what a first run says of their patches (N V P).
    """
    how, task, see = job.config.predict, job.task, partial(seen, job, network, images, believed)
    if once is None or how.tta != "none":
        prediction, spread = see(rows, tta=how.tta)
    else:
        prediction, spread = once, np.zeros(len(rows), np.float32)
    if how.hard_tta != "none":
        cuts = task.default_cuts(len(job.table.classes))
        sure = sureness(task, prediction[None], cuts, "confidence").mean(1)
        hard = np.sort(np.argsort(sure, kind="stable")[: round(how.hard_share * len(rows))])
        if len(hard):
            prediction[hard], spread[hard] = see(rows[hard], tta=how.hard_tta)
    return prediction, spread


def seen(
    job: Job, network: Network, images: Rows, believed: Array | None, rows: Array, tta: str
) -> tuple[Array, Array]:
    """Return predictions (N P) and spread (N) of some rows; of patches they are put together view by view."""
    how: dict[str, Any] = {"machine": job.machine, "tta": tta, "batch_size": job.config.predict.batch_size}
    if not job.config.patches.size:
        return predict(network, job.task, job.head, images, rows, **how)
    views = through(network, job.task, job.head, cut(job, images), patches_of(job, rows), **how)
    each = np.stack([joined(job, view.numpy(), believed) for view in views])
    return each.mean(0), each.std(0).mean(1)


def chooses(job: Job) -> bool:
    """Say whether a run learns from all patches: what it says of each of them is kept, for another to choose by."""
    return job.config.patches.size > 0 and not job.config.chosen_by


def embedded(
    job: Job, network: Network, images: Rows, believed: Array | None = None, rows: Array | None = None
) -> tuple[Array, Array, Array]:
    """Return predictions (N P) of some images (None: all) from one view, embeddings (N F), those of patches (N V P)."""
    rows = np.arange(len(images)) if rows is None else rows
    shown, places, size = cut(job, images), patches_of(job, rows), job.config.predict.batch_size
    batches = list(embed(network, shown, places, machine=job.machine, batch_size=size))
    raw = torch.cat([scored for _, scored in batches])
    center, spread = network.center.cpu(), network.spread.cpu()
    real = raw[:, : raw.shape[1] - network.extra]
    said = to_prediction(job.task, job.head, real, center, spread).numpy()
    features = np.concatenate([pooled.numpy() for pooled, _ in batches])
    patches = said.reshape(len(rows), -1, said.shape[1])
    return joined(job, said, believed), joined(job, said, believed, features), patches


def join_halves(job: Job, which: Which) -> None:
    """Put the two students of a fold together: each row is predicted by the one that did not train on its half."""
    if job.task.name == NAME:
        return join_mask_halves(job, which)
    job = job.within(which)
    table, files = job.table, which.files(job.files)
    scored, halves = table.scored, [files.half(0), files.half(1)]
    mine, test = half_of(table.ids[scored]), half_of(table.ids[table.test])
    at = np.isin(table.folds[scored], which.held_out)

    def join(name: str, half: Array) -> Array:
        first, second = (np.asarray(read_npy(getattr(shelf, name))) for shelf in halves)
        chosen = half == 1
        write_npy(getattr(files, name), np.where(chosen[:, None] if first.ndim == 2 else chosen, first, second))
        return np.asarray(read_npy(getattr(files, name)))

    oof = join("oof", mine[at])
    join("test", test)
    join("train", mine)
    join("spread", np.concatenate([mine, test]))
    outputs = [files.oof, files.test, files.train, files.spread, *(shelf.receipt for shelf in halves)]
    if len(table.holdout):
        join("holdout", half_of(table.ids[table.holdout]))
        outputs.append(files.holdout)
    sign(job, which, outputs, oof, {"halves": [0, 1]})


def sign(job: Job, which: Which, outputs: list[Path], oof: Array | None, facts: dict[str, Any]) -> float:
    """Score the predictions of a model's own rows (None: it made none), write its receipt, last; return the score."""
    table, config = job.table, job.config
    own = np.isin(table.folds[table.scored], which.held_out)
    score = float("nan") if oof is None else Problem.of(table, job.task, job.metric).part(own).score(oof)
    # Two students put together have learnt nothing themselves: their own receipts say from what they did.
    learnt = {} if "halves" in facts else sources(job, which)
    files = {role: {str(path): digest_file(path) for path in paths} for role, paths in learnt.items()}
    common = {
        "run": job.files.run,
        "fit_hash": job.fit_key,
        "predict_hash": job.predict_key,
        "repeat": which.repeat,
        "held_out": list(which.held_out),
        "level": job.level,
        "parents": [parent | {"files": files.get(parent["role"], {})} for parent in job.parents],
        "seed": config.seed,
        "batch_size": job.batch_size,
        "machine": asdict(job.machine),
        "metrics": {} if oof is None else {job.metric.name: score},
    }
    receipt = which.files(job.files).receipt
    write_receipt(receipt, stage="train", key=job.predict_key, outputs=outputs, **common, **facts)
    return score
