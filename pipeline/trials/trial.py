"""One trial: the models of a run on some folds, scored out of fold, and nothing else; it leaves what was judged."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images.near import refuse_near_copies
from pipeline.nets.machine import Machine, choose_machine
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.scoring.cuts import crossfit
from pipeline.scoring.mask_shelf import Scene, choose_masks, put_together
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_json, read_json, read_npy, write_json, write_npy
from pipeline.store.keys import trial_keys
from pipeline.store.receipts import fresh, write_receipt
from pipeline.store.roles import read_parents, refuse_damaged, refuse_misfit
from pipeline.store.shelves import as_parent, of_repeat
from pipeline.store.tracking import Tracker
from pipeline.training.adapt import to_maps, to_rows
from pipeline.training.cost import forget_peak, peak_memory
from pipeline.training.fold import fit_fold
from pipeline.training.frozen import fit_frozen
from pipeline.training.inference import ready, with_inference
from pipeline.training.job import Job, check_names
from pipeline.training.mask_job import extra_maps
from pipeline.training.mask_shelf import write_maps
from pipeline.training.patches import trust
from pipeline.training.posthoc import predictor
from pipeline.training.probe import with_fastest
from pipeline.training.shelf import join_halves, look_twice, predict_fold
from pipeline.training.weights import choose_epochs, fitted, is_fitted
from pipeline.training.which import Which
from pipeline.trials.bench import BASE, Bench, Trial, Unit
from pipeline.trials.fresh import only
from pipeline.trials.pruning import Pruned, Referee, curve_of

log = logging.getLogger("pipeline.trials")


def pose(bench: Bench, trial: Trial) -> tuple[Job, str]:
    """Return what the models of a trial share, and the hash of all that its score depends on."""
    files, config, table = trial.files(bench.files), trial.config, bench.table_of(trial.split)
    refuse_misfit(config, bench.competition, bench.files.config)
    parents = read_parents(config, bench.files, bench.facts)
    fit_key, key = trial_keys(config, bench.competition, bench.facts | {"fold_map": bench.fold_map(trial.split)})
    machine = replace(choose_machine(config.precision), threads=bench.threads)
    machine.prepare()
    halves = bool(config.pseudo and parents["pseudo"]["config"]["halves"])
    named = tuple(as_parent(role, receipt) for role, receipt in parents.items())
    key = digest_json([key, trial.folds])
    return Job(files, config, bench.competition, table, bench.metric, machine, fit_key, key, halves, named), key


def check(bench: Bench, trial: Trial) -> None:
    """Refuse, before anything is trained, what the models of a trial cannot be."""
    job, _ = pose(bench, trial)
    for run in filter(None, (trial.config.teacher, trial.config.init, trial.config.chosen_by)):
        refuse_damaged(run)
    if trial.config.init:
        refuse_near_copies(trial.config.init, bench.files)
    try:
        check_names(job)
    except UserError as error:
        told = str(error).removeprefix(f"{job.files.config}: ")
        raise UserError(f"{bench.files.config}: {trial.name}: {told}") from None


def shared_fit(bench: Bench, trial: Trial) -> str:
    """Return a hash that is the same of trials whose models are the same: those that only predict otherwise."""
    job, key = pose(bench, trial)
    return job.fit_key if trial.config.fit == "network" and not trial.config.pseudo else key


def is_done(bench: Bench, trial: Trial) -> bool:
    """Say whether a trial has its receipt, of these settings."""
    return fresh(trial.files(bench.files).receipt, pose(bench, trial)[1])


def attempt(bench: Bench, unit: Unit) -> None:
    """Run trials that share their models; those that fail are told and signed as failed, for others to go on."""
    (home, _), folds = pose(bench, unit.trials[0]), unit.trials[0].folds
    forget_peak()
    started = time.monotonic()
    try:
        home = probed(home)
        fit_models(home, folds, unit.bars)
        trained = seconds_of(home, folds) or time.monotonic() - started
        for trial in unit.trials:
            began, job = time.monotonic(), probed(replace(pose(bench, trial)[0], machine=home.machine))
            predict(home, job, trial.folds)
            guess, problem = judged(bench, job, trial), bench.problem(trial)
            write_npy(job.files.judged, guess)
            facts: dict[str, Any] = {"memory": peak_memory(), "machine": asdict(job.machine)}
            facts["seconds"] = round(trained + time.monotonic() - began, 3)
            sign(bench, trial, float(problem.judge(guess)), outputs=[job.files.judged], **facts)
    except Pruned as stopped:
        for trial in unit.trials:
            sign(bench, trial, stopped.score, pruned=True)
    except UserError as error:
        if any(trial.name == BASE for trial in unit.trials):
            raise
        for trial in unit.trials:
            log.warning("%s failed: %s", trial.files(bench.files).run, error)
            sign(bench, trial, float("nan"), failed=str(error))
    for trial in unit.trials:
        clear(trial.files(bench.files))


def probed(job: Job) -> Job:
    """Return the job with what its machine chooses by a probe, stored for when the trial is resumed."""
    path = job.files.state
    known = read_json(path) if path.exists() else {}
    if known.get("key") == job.predict_key:
        return replace(job, machine=Machine(**known["machine"]))
    job = with_inference(with_fastest(job))
    write_json(path, {"key": job.predict_key, "machine": asdict(job.machine)})
    return job


def fit_models(job: Job, folds: tuple[int, ...], bars: tuple[float, ...]) -> None:
    """Fit the models of some folds that are not fitted yet."""
    mine = [which for which in job.models if which.held_out[0] in folds and which.target == "fold"]
    for which in mine:  # test rows are not predicted
        log_file, metric = which.files(job.files).log, job.metric
        referee = Referee(log_file, bars, job.config.epochs, metric.name, metric.gain) if bars else None
        tracker = Tracker(run=referee)
        if job.config.fit != "network":
            fit_frozen(job, which, tracker)
        elif not is_fitted(job, which):
            fit_fold(job, which, tracker)
    if job.config.select == "best":
        choose_epochs(job)


def predict(home: Job, job: Job, folds: tuple[int, ...]) -> None:
    """Predict the rows of some folds as a job has it, with the models of the job that was fitted."""
    for k in folds if job.config.fit == "network" else ():
        if job.halves:  # the whole shelf of both students, from which theirs is put together
            for half in (0, 1):
                predict_fold(job, Which((k,), half), Tracker())
            join_halves(job, Which((k,)))
            continue
        table, path = job.table, job.files.fold(k).oof
        rows, which = np.flatnonzero(table.folds[table.scored] == k), Which((k,))
        if job.task.dense:
            masks = fitted(job, which.files(home.files).model)
            assert isinstance(masks, MaskNetwork)
            maps = job.ragged(table.scored)[0]
            write_maps(job, to_maps(job, masks, maps, rows), path, maps, rows, table.scored[rows])
        else:
            images, trained = job.images(table.scored)[0], predictor(replace(job, files=home.files), which)
            network = ready(to_rows(job, trained, images, rows), job.inference, job.seen)
            believed = trust(job, which, "scored")
            mine = None if believed is None else believed[rows]
            write_npy(path, look_twice(job, network, images, rows, believed=mine)[0])


def judged(bench: Bench, job: Job, trial: Trial) -> Array:
    """Return what the metric judges (N ...) of the rows that a trial scores; cuts are fitted on the other folds."""
    table, problem, method = only(job.table, trial.folds), bench.problem(trial), job.config.decision
    method = method if len(trial.folds) > 1 else "fixed"
    if job.task.dense:
        shown = {"extra": extra_maps(job), "scale": job.config.predict.shelf_scale}
        scene = Scene.of(job.files, job.competition, table, job.task, job.metric, shown)
        put_together(job.files, scene)
        maps = scene.maps(job.files.oof, table.scored)
        return choose_masks(scene, maps, method, grid=method != "fixed")[0].stats
    oof = of_repeat(job.files.run, table, 0)
    if job.task.cuts and job.metric.label:
        return crossfit(problem, method, lambda k: oof).labels
    return job.metric.wanted(job.task, oof, problem.cuts)


def seconds_of(job: Job, folds: tuple[int, ...]) -> float:
    """Return how long the epochs took, also those before a kill."""
    logs = [which.files(job.files).log for which in job.models if which.held_out[0] in folds]
    lines = [line for path in logs if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]
    return float(sum(json.loads(line).get("seconds", 0.0) for line in lines))


def sign(bench: Bench, trial: Trial, score: float, outputs: Sequence[Path] = (), **facts: Any) -> None:
    """Write the receipt of a trial, last."""
    job, key = pose(bench, trial)
    logs = [which.files(job.files).log for which in job.models if which.held_out[0] in trial.folds]
    write_receipt(
        job.files.receipt,
        stage="trial",
        key=key,
        outputs=outputs,
        run=job.files.run,
        config=trial.config.model_dump(),
        fold_map=bench.fold_map(trial.split),
        folds=list(trial.folds),
        parents=list(job.parents),
        level=job.level,
        metrics={"metric": job.metric.name, "score": score},
        epochs=trial.config.epochs,
        steps=trial.config.epochs * bench.steps(trial.config),
        curves=[curve_of(path, job.metric.name) for path in logs if path.exists()],
        **facts,
    )
    if "failed" not in facts:
        log.info("%s: %s %.4f", job.files.run, job.metric.name, score)


def clear(files: RunFiles) -> None:
    """Delete all but the logs and what was judged: of a hundred trials nobody needs the weights."""
    kept = (files.receipt, files.judged, files.lock)
    for path in sorted(files.folder.rglob("*")):
        if path.is_file() and path not in kept and path.name != files.fold(0).log.name:
            path.unlink()


def guess_of(bench: Bench, trial: Trial) -> Array:
    """Return what was judged of a trial that is done."""
    return np.asarray(read_npy(trial.files(bench.files).judged))


def receipt_of(bench: Bench, trial: Trial) -> dict[str, Any]:
    """Return the receipt of a trial that is done."""
    found: dict[str, Any] = read_json(trial.files(bench.files).receipt)
    return found
