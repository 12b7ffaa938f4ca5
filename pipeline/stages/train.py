"""Train one model a fold, predict the rows it never saw and the test rows, and score the run."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict

import numpy as np

from pipeline.scoring.metrics import Metric, get_metric
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Competition, Train, load_competition, load_run
from pipeline.store.errors import UserError
from pipeline.store.files import lock, read_json, read_npy, require_space, write_json, write_npy
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.tasks import TASKS

log = logging.getLogger("pipeline.train")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a run: models, out-of-fold and test predictions, scores."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Train):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make train')
    metric = get_metric(competition.metric, TASKS[competition.task])
    with lock(files.lock, f"run {args.run}"):
        table = read_table_facts(files.competition)
        refuse_other_folds(files, table["fold_map"])
        keys = train_keys(config, competition, table)
        if fresh(files.receipt, keys[2]):
            return touch(files.receipt)
        handler = log_to(files.log)
        try:
            train(files, config, competition, metric, *keys)
        finally:
            handler.close()
            logging.getLogger("pipeline").removeHandler(handler)


def refuse_other_folds(files: RunFiles, fold_map: str) -> None:
    """Refuse a shelf that was written under another fold map: its models saw rows that are held out now."""
    if files.state.exists() and read_json(files.state)["fold_map"] != fold_map:
        raise UserError(
            f"{files.folder} was written under another fold map than {files.competition.folds}: its models saw rows "
            f"that are held out now; delete {files.folder} or train under another name"
        )


def train(
    files: RunFiles, config: Train, competition: Competition, metric: Metric, fitted: str, predicted: str, key: str
) -> None:
    """Fit what is not fitted, predict what is not predicted, score."""
    from pipeline.scoring.cuts import Problem
    from pipeline.scoring.report import in_words, score_run
    from pipeline.store.table import read_table
    from pipeline.store.tracking import track
    from pipeline.training.fold import Job, check_names, choose_epochs, fit_fold, is_fitted, predict_fold
    from pipeline.training.machine import Machine, choose_machine

    started, table = time.monotonic(), read_table(files.competition.name)
    known = read_json(files.state) if files.state.exists() else {}
    machine = choose_machine(config.precision)
    if known.get("fit_hash") == fitted and known["machine"]["device"] == machine.device:
        machine = Machine(**known["machine"])  # what was chosen once holds until the run is another one
    machine.prepare()
    job = Job(files, config, competition, table, metric, machine, fitted, predicted)
    check_names(job)
    write_json(files.state, {"fold_map": table.fold_map(), "fit_hash": fitted, "machine": asdict(machine)})
    folds = np.unique(table.folds[table.scored]).tolist()
    require_space(
        files.folder, 4 * (len(table.scored) + len(folds) * len(table.test)) * 8 * len(table.classes), "the run"
    )
    level = "crossfit" if config.select == "best" else "blind"
    settings = config.model_dump()
    waiting = [k for k in folds if not fresh(files.fold(k).receipt, predicted)]
    for k in waiting:
        if not is_fitted(job, k):
            with track(files, "train", settings, fitted, k) as tracker:
                fit_fold(job, k, tracker)
                if config.select == "last":
                    predict_fold(job, k, tracker, level)
    if config.select == "best":
        choose_epochs(job, folds)
    for k in folds:
        if not fresh(files.fold(k).receipt, predicted):
            with track(files, "predict", settings, predicted, k) as tracker:
                predict_fold(job, k, tracker, level)
    task, scored = TASKS[competition.task], table.scored
    oof = np.zeros((len(scored), task.width(len(table.classes))), np.float32)
    for k in folds:
        oof[table.folds[scored] == k] = read_npy(files.fold(k).oof)
    write_npy(files.oof, oof)
    tests = np.stack([read_npy(files.fold(k).test) for k in folds])
    write_npy(files.test, tests.mean(0, dtype=np.float64).astype(np.float32))
    y = task.targets(table.y[scored])
    problem = Problem(task, metric, len(table.classes), y, table.folds[scored], table.group)
    report, decision = score_run(problem, oof, config.decision, lambda k: oof)
    write_receipt(
        files.receipt,
        stage="train",
        key=key,
        outputs=[files.oof, files.test, *(files.fold(k).receipt for k in folds)],
        run=files.run,
        config=settings,
        fit_hash=fitted,
        predict_hash=predicted,
        fold_map=table.fold_map(),
        rows=table.content(scored),
        classes=table.classes,
        folds=folds,
        parents=[],
        level={str(k): level for k in folds},
        machine=asdict(machine),
        decision=decision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    log.info("%s: %s", files.run, in_words(report))


if __name__ == "__main__":
    main(run, __doc__, "run")
