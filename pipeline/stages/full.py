"""Train the models of a run once more, on all labelled rows: for the test set only, without a score of their own."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_json, lock, read_npy, write_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.store.runs import Full, load_run
from pipeline.store.shelves import as_parent, leaves, read_shelf, read_stage, refuse_strangers
from pipeline.tasks import Task, task_of

if TYPE_CHECKING:  # imports torch, which a run with nothing to do must not pay for
    from pipeline.training.job import Job
    from pipeline.training.which import Which

log = logging.getLogger("pipeline.full")


def run(args: argparse.Namespace) -> None:
    """Leave a shelf of test predictions alone; its score is inherited, and marked so."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Full):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make full')
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        parent = read_stage(config.run, "run", "train", "ensemble")
        receipts = {leaf: read_shelf(leaf, "run") for leaf in leaves(config.run)}
        refuse_strangers({config.run: parent} | receipts, facts)
        refuse_stackers(parent)
        for leaf, receipt in receipts.items():
            refuse_roles(leaf, receipt["config"])
        key = built_key(config, competition, {config.run: parent})
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            started = time.monotonic()
            jobs = {leaf: pose(files, leaf, receipt, facts) for leaf, receipt in receipts.items()}
            for seed in range(config.seeds):
                said = {leaf: fit(job, leaf, seed) for leaf, job in jobs.items()}
                compose(files.fold(seed).test, config.run, task_of(competition, facts["classes"]), said)
            write(files, config, parent, jobs, key, started)


def compose(path: Path, run: str, task: Task, said: dict[str, Array]) -> None:
    """Write what a run would predict if the trained runs under it predicted what is `said` (N P, or flat maps)."""
    if task.dense:
        from pipeline.masks.maps import write_mean
        from pipeline.scoring.mask_ensemble import leaf_weights

        weights = leaf_weights(run)
        write_mean(path, [said[leaf] for leaf in weights], list(weights.values()))
    else:
        from pipeline.scoring import blend

        write_npy(path, blend.compose(task, run, blend.deployed, said))


def refuse_stackers(receipt: dict[str, Any]) -> None:
    """Refuse a stacker, and a blend with one in it: what other models would make it say is not known."""
    if receipt["stage"] == "ensemble":
        if "weights" not in receipt:
            raise UserError(f"{receipt['run']} is a stacker: what other models would make it say is not known")
        for parent in receipt["parents"]:
            refuse_stackers(read_shelf(parent["run"]))


def refuse_roles(leaf: str, config: dict[str, Any]) -> None:
    """Refuse a run that learnt from others fold by fold: for all rows at once there is nobody to learn from."""
    named = [role for role in ("pseudo", "teacher", "tags", "init", "chosen_by") if config[role]]
    if named:
        raise UserError(f"{leaf} learns from {named[0]} = {config[named[0]]!r}, fold by fold: refit the run it is from")
    if config["fit"] != "network":
        raise UserError(f"{leaf} is a head on features (fit = {config['fit']!r}): only networks are refitted")
    if config["select"] == "best":
        raise UserError(f'{leaf} has select = "best": on all rows nothing is left to choose by; use select = "last"')


def pose(files: RunFiles, leaf: str, receipt: dict[str, Any], facts: dict[str, Any]) -> Job:
    """Return what the models of a trained run share, for a shelf of its own, on the machine that run chose."""
    from pipeline.nets.machine import Machine, choose_machine
    from pipeline.scoring.metrics import metric_of
    from pipeline.store.table import read_table
    from pipeline.store.train import Train
    from pipeline.training.job import Job, check_names

    config, competition = load_run(leaf), load_competition(files.competition.name)
    assert isinstance(config, Train)
    if digest_json(config.model_dump()) != digest_json(receipt["config"]):
        raise UserError(f"configs/{leaf}.toml has changed since {leaf} was trained: run make for it first")
    table, metric = read_table(files.competition, facts), metric_of(competition, files.competition)
    machine = choose_machine(config.precision)
    if receipt["machine"]["device"] == machine.device:
        machine = Machine(**receipt["machine"])
    else:
        machine = replace(machine, batch_size=receipt["machine"]["batch_size"])
    machine.prepare()
    fitted = digest_json(["full", receipt["fit_hash"]])
    predicted = digest_json(["full", receipt["predict_hash"]])
    job = Job(
        files, config, competition, table, metric, machine, fitted, predicted, unshifted=receipt["unshifted"]
    )  # fmt: skip
    check_names(job)
    return job


def fit(job: Job, leaf: str, seed: int) -> Array:
    """Fit one model on all labelled rows, or find it fitted; return its test predictions (N P, or flat maps)."""
    from pipeline.store.tracking import track
    from pipeline.training.fold import fit_fold
    from pipeline.training.weights import is_fitted
    from pipeline.training.which import Which

    which = Which((), whole=f"{leaf.split('/')[-1]}-{seed}", target="test")
    shelf = which.files(job.files)
    if not fresh(shelf.receipt, job.predict_key):
        with track(job.files, "full", job.config.model_dump(), job.fit_key, which.title) as tracker:
            if not is_fitted(job, which):
                fit_fold(job, which, tracker)
            (predict_masks if job.task.dense else predict_rows)(job, which)
            sign(job, which)
    return read_npy(shelf.test)


def predict_masks(job: Job, which: Which) -> None:
    """Predict the masks of the test rows with one model."""
    from pipeline.nets.mask_nets import MaskNetwork
    from pipeline.store.table import TEST
    from pipeline.training.adapt import to_maps
    from pipeline.training.mask_shelf import write_maps
    from pipeline.training.readable import readable
    from pipeline.training.weights import fitted

    table, shelf = job.table, which.files(job.files)
    network = fitted(job, shelf.model)
    assert isinstance(network, MaskNetwork)
    images = readable(job.ragged, table.test)
    network = to_maps(job, network, images, np.flatnonzero(table.folds[table.test] == TEST))
    write_maps(job, network, shelf.test, images, np.arange(len(table.test)), table.test)


def predict_rows(job: Job, which: Which) -> None:
    """Predict the test rows with one model."""
    from pipeline.store.table import TEST
    from pipeline.training.adapt import to_rows
    from pipeline.training.inference import ready
    from pipeline.training.posthoc import predictor
    from pipeline.training.readable import every_image
    from pipeline.training.shelf import look_twice

    table, shelf = job.table, which.files(job.files)
    images, real = every_image(job, table.test), np.flatnonzero(table.folds[table.test] == TEST)
    network = ready(to_rows(job, predictor(job, which), images, real), job.inference, job.seen)
    write_npy(shelf.test, look_twice(job, network, images, np.arange(len(table.test)))[0])


def sign(job: Job, which: Which) -> None:
    """Write the receipt of a model that has predicted."""
    shelf = which.files(job.files)
    learnt = read_npy(shelf.rows)
    write_receipt(
        shelf.receipt,
        stage="full",
        key=job.predict_key,
        outputs=[shelf.model, shelf.rows, shelf.epochs, shelf.test],
        run=job.files.run,
        fit_hash=job.fit_key,
        predict_hash=job.predict_key,
        held_out=[],
        level="deployed",
        trained_on={"rows": len(learnt), "ids": digest(*job.table.ids[learnt])},
        seed=job.config.seed,
        machine=asdict(job.machine),
    )


def write(
    files: RunFiles, config: Full, parent: dict[str, Any], jobs: dict[str, Job], key: str, started: float
) -> None:
    """Write the mean over the seeds and the receipt: the parent's score and cuts, which nothing here validates."""
    tests = [read_npy(files.fold(seed).test) for seed in range(config.seeds)]
    if "maps" in parent:
        from pipeline.masks.maps import write_mean

        write_mean(files.test, tests)
    else:
        write_npy(files.test, np.asarray(np.mean(tests, 0, dtype=np.float64), np.float32))
    names = [f"{leaf.split('/')[-1]}-{seed}" for leaf in jobs for seed in range(config.seeds)]
    inherited = {name: value for name, value in parent["metrics"].items() if name != "holdout"}
    write_receipt(
        files.receipt,
        stage="full",
        key=key,
        outputs=[
            files.test,
            *(files.fold(seed).test for seed in range(config.seeds)),
            *(files.whole(name).receipt for name in names),
        ],
        run=files.run,
        config=config.model_dump(),
        **{
            name: parent[name] for name in ("fold_map", "rows", "test", "classes", "decision", "maps") if name in parent
        },
        folds=list(range(config.seeds)),
        parents=[as_parent("run", parent)],
        level={},
        metrics=inherited | {"inherited_from": config.run, "validated": False},
        seconds=round(time.monotonic() - started, 1),
    )
    rows = len(next(iter(jobs.values())).table.labelled)
    log.info("%s: %d models on all %d labelled rows; no score of its own", files.run, len(names), rows)
    told = f"{inherited['metric']} {inherited['score']:.4f} +- {inherited['se']:.4f}"
    log.info("%s: cv of %s, %s, is inherited: nothing validates this fit", files.run, config.run, told)


if __name__ == "__main__":
    main(run, __doc__, "run")
