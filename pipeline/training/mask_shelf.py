"""Predict masks with one model of a run and leave them on its shelf, streamed; its receipt is written last."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from pipeline.images.ragged import Ragged
from pipeline.masks.maps import Maps, write_flat
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.store.files import Array, read_npy
from pipeline.store.table import TEST, half_of
from pipeline.store.tracking import Tracker
from pipeline.training.adapt import to_maps
from pipeline.training.job import Job
from pipeline.training.mask_job import look_of, maps_layout
from pipeline.training.mask_predict import stretches
from pipeline.training.mask_score import stats_of
from pipeline.training.readable import readable
from pipeline.training.weights import fitted
from pipeline.training.which import Which


def predict_masks(job: Job, which: Which, tracker: Tracker) -> None:
    """Predict with one model the rows it never saw, the test rows and the holdout; the receipt comes last."""
    from pipeline.training.shelf import facts_of, looked_at, sign

    job = job.within(which)
    table, files = job.table, which.files(job.files)
    started, network = time.monotonic(), fitted(job, files.model)
    assert isinstance(network, MaskNetwork)
    held_out = np.flatnonzero(np.isin(table.folds[table.scored], which.held_out))
    images, bad = job.ragged(table.scored)
    write_maps(job, to_maps(job, network, images, held_out), files.oof, images, held_out, table.scored[held_out])
    on_test, real = readable(job.ragged, table.test), np.flatnonzero(table.folds[table.test] == TEST)
    adapted = to_maps(job, network, on_test, real)
    write_maps(job, adapted, files.test, on_test, np.arange(len(table.test)), table.test)
    outputs = [files.model, files.rows, files.oof, files.test, files.epochs]
    if len(table.holdout):
        kept = readable(job.ragged, table.holdout, "row of the holdout")
        every = np.arange(len(kept))
        write_maps(job, to_maps(job, network, kept, every), files.holdout, kept, every, table.holdout)
        outputs.append(files.holdout)
    mine = table.scored[held_out]
    facts = facts_of(job, which, bad, started) | looked_at(job, mine, table.test[real])
    stats = stats_of(job, mine, Maps(read_npy(files.oof), maps_layout(job, mine))) if len(mine) else np.zeros((0, 1))
    score = sign(job, which, outputs, stats, facts)
    tracker.summary({f"oof_{job.metric.name}": score, "rows": len(held_out)})
    tracker.artifact(f"{job.files.run}-{which.title}".replace(" ", ""), "model", files.model)


def join_mask_halves(job: Job, which: Which) -> None:
    """Put the maps of the two students of a fold together: each row is of the one that did not train on its half."""
    from pipeline.training.shelf import sign

    job = job.within(which)
    table, files = job.table, which.files(job.files)
    mine = table.scored[np.isin(table.folds[table.scored], which.held_out)]
    shelves, outputs = [files.half(0), files.half(1)], []
    wanted = {"oof": mine, "test": table.test} | ({"holdout": table.holdout} if len(table.holdout) else {})
    for name, rows in wanted.items():
        flats, plan = [read_npy(getattr(shelf, name)) for shelf in shelves], maps_layout(job, rows)
        ends = zip(half_of(table.ids[rows]).tolist(), plan.starts[:-1].tolist(), plan.starts[1:].tolist(), strict=True)
        outputs.append(getattr(files, name))
        write_flat(outputs[-1], (flats[1 - half][start:end] for half, start, end in ends), plan.total)
    stats = stats_of(job, mine, Maps(read_npy(files.oof), maps_layout(job, mine)))
    sign(job, which, [*outputs, *(shelf.receipt for shelf in shelves)], stats, {"halves": [0, 1]})


def write_maps(job: Job, network: MaskNetwork, path: Path, images: Ragged, rows: Array, at: Array) -> None:
    """Write the predictions of some images (`rows` of them, `at` these positions of the table) to the shelf."""
    plan = maps_layout(job, at)
    write_flat(path, stretches(network, images, rows, plan.sizes, look_of(job), job.machine), plan.total)
