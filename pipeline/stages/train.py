"""Train one model a fold, predict the rows it never saw and the test rows, and score the run."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from pipeline.scoring.cuts import Problem
from pipeline.scoring.metrics import get_metric
from pipeline.scoring.report import in_words, score_run
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Train, load_competition, load_run
from pipeline.store.errors import UserError
from pipeline.store.files import lock, read_json, read_npy, require_space, write_json, write_npy
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.tasks import TASKS

if TYPE_CHECKING:  # both import torch, which a run with nothing to do must not pay for
    from pipeline.training.fold import Job
    from pipeline.training.machine import Machine

log = logging.getLogger("pipeline.train")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a run: models, out-of-fold and test predictions, scores."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Train):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make train')
    task = TASKS[competition.task]
    metric = get_metric(competition.metric, task)
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        refuse_other_folds(files, facts["fold_map"])
        if not metric.label:
            task.refuse_grades(facts["classes"], f"metric {metric.name}")
        fitted, predicted, key = train_keys(config, competition, facts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.store.table import read_table
            from pipeline.training.fold import Job

            started, table = time.monotonic(), read_table(files.competition, facts)
            machine = machine_of(files, config.precision, fitted)
            job = Job(files, config, competition, table, metric, machine, fitted, predicted)
            level = "crossfit" if config.select == "best" else "blind"
            fit_and_predict(job, level)
            assemble(job, level, key, started)


def refuse_other_folds(files: RunFiles, fold_map: str) -> None:
    """Refuse a shelf that was written under another fold map: its models saw rows that are held out now."""
    if files.state.exists() and read_json(files.state)["fold_map"] != fold_map:
        raise UserError(
            f"{files.folder} was written under another fold map than {files.competition.folds}: its models saw rows "
            f"that are held out now; delete {files.folder} or train under another name"
        )


def machine_of(files: RunFiles, precision: str, fitted: str) -> Machine:
    """Return what the machine chooses; what was chosen once holds until the run is another one."""
    from pipeline.training.machine import Machine, choose_machine

    machine = choose_machine(precision)
    known = read_json(files.state) if files.state.exists() else {}
    if known.get("fit_hash") == fitted and known["machine"]["device"] == machine.device:
        machine = Machine(**known["machine"])
    machine.prepare()
    return machine


def fit_and_predict(job: Job, level: str) -> None:
    """Fit what is not fitted, predict what is not predicted."""
    from pipeline.store.tracking import track
    from pipeline.training.fold import check_names, choose_epochs, fit_fold, is_fitted, predict_fold

    check_names(job)
    files, table, settings, folds = job.files, job.table, job.config.model_dump(), job.folds
    need = (len(table.scored) + len(folds) * len(table.test)) * job.task.width(len(table.classes)) * 4
    require_space(files.folder, 2 * need, "the predictions of the run")
    state = {"fold_map": table.fold_map(), "fit_hash": job.fit_key, "machine": asdict(job.machine)}
    write_json(files.state, state)
    for k in folds:
        if not fresh(files.fold(k).receipt, job.predict_key) and not is_fitted(job, k):
            with track(files, "train", settings, job.fit_key, k) as tracker:
                fit_fold(job, k, tracker)
                if job.config.select == "last":
                    predict_fold(job, k, tracker, level)
    if job.config.select == "best":
        choose_epochs(job)
    for k in folds:
        if not fresh(files.fold(k).receipt, job.predict_key):
            with track(files, "train", settings, job.predict_key, k) as tracker:
                predict_fold(job, k, tracker, level)


def assemble(job: Job, level: str, key: str, started: float) -> None:
    """Put the folds together, score the run, write its receipt."""
    files, table, task, scored = job.files, job.table, job.task, job.table.scored
    shelves = {k: files.fold(k) for k in job.folds}
    oof = np.zeros((len(scored), task.width(len(table.classes))), np.float32)
    for k, shelf in shelves.items():
        oof[table.folds[scored] == k] = read_npy(shelf.oof)
    write_npy(files.oof, oof)
    tests = np.stack([read_npy(shelf.test) for shelf in shelves.values()])
    write_npy(files.test, tests.mean(0, dtype=np.float64).astype(np.float32))
    problem = Problem.of(table, task, job.metric)
    report, decision = score_run(problem, oof, job.config.decision, lambda k: oof)
    parts = [path for shelf in shelves.values() for path in (shelf.receipt, shelf.oof, shelf.test)]
    write_receipt(
        files.receipt,
        stage="train",
        key=key,
        outputs=[files.oof, files.test, *parts],
        run=files.run,
        config=job.config.model_dump(),
        fit_hash=job.fit_key,
        predict_hash=job.predict_key,
        fold_map=table.fold_map(),
        rows=table.content(scored),
        test=table.content(table.test),
        classes=table.classes,
        folds=job.folds,
        parents=[],
        level={str(k): level for k in job.folds},
        machine=asdict(job.machine),
        decision=decision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    log.info("%s: %s", files.run, in_words(report))


if __name__ == "__main__":
    main(run, __doc__, "run")
