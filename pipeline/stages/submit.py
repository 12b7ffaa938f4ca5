"""Write the submission of a run, check it as Kaggle would, and enter it in the ledger."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.metrics import METRICS, Metric, metric_of
from pipeline.store import ledger
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, digest_file, lock, number, read_json, read_npy
from pipeline.store.keys import read_table_facts, submit_key
from pipeline.store.receipts import damaged, fresh, touch, write_receipt
from pipeline.store.shelves import PREDICTING, as_out_of_fold, leaves
from pipeline.tasks import Task, task_of

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    import pandas as pd

    from pipeline.competitions.solution import Solution
    from pipeline.store.table import Table

log = logging.getLogger("pipeline.submit")


def run(args: argparse.Namespace) -> None:
    """Write `submissions/<run>.csv`, its receipt, and a ledger row."""
    files = RunFiles(args.run)
    competition = load_competition(files.competition.name)
    if not files.receipt.exists():
        raise UserError(f"{files.receipt} is missing: make submit COMP=... NAME=... builds it")
    shelf = read_json(files.receipt)
    with lock(files.submit_lock, f"the submission of {args.run}"):
        key = submit_key(shelf, competition, files.competition)
        if files.submission.exists() and fresh(files.submission_receipt, key):
            return touch(files.submission)
        broken = damaged(shelf)
        if broken:
            raise UserError(f"{broken[0]} is not what {files.receipt} says: delete {files.receipt} and run make again")
        refuse_leaks(args.run)
        submit(files, shelf, key)


def refuse_leaks(run: str) -> None:
    """Refuse a run whose audit finds that something saw what it must not."""
    from pipeline.audit.refit import refit
    from pipeline.audit.report import audit

    report = audit(run, refit)
    if report.findings:
        more = f" (make audit tells all {len(report.findings)})" if len(report.findings) > 1 else ""
        raise UserError(f"{run} is not honest: {report.findings[0]}{more}")
    log.info("%s: audited: %s", run, ", ".join(f"{count} {what}" for what, count in report.counts.items()))


def decide(
    table: Table, task: Task, metric: Metric, files: RunFiles, shelf: dict[str, Any], test: Array, wants_labels: bool
) -> tuple[Array, dict[str, Any]]:
    """Decide the labels of the test rows; return them and the cuts used.

    Tuned cuts belong to one model a row; the mean of K models is narrower, so they are moved to leave the share of rows
    that the K models leave on average (see `cuts.match_ensemble`).
    """
    from pipeline.scoring.cuts import fit, match_ensemble
    from pipeline.scoring.problem import Problem

    if not (task.cuts and wants_labels):
        return task.decide(test, task.default_cuts(len(shelf["classes"]))), {}
    decision = shelf["decision"]
    if decision is None and task.name in ("ordinal", "several"):
        cuts, method = task.default_cuts(len(shelf["classes"])), "fixed"
    elif decision is None:
        # The metric takes probabilities but the file wants labels: F1 decides.
        wanted, metric = metric.name, METRICS["f1" if task.name == "binary" else "f1_macro"]
        log.warning("warning: the file holds labels, cut for %s; cv is %s of the probabilities", metric.name, wanted)
        problem = Problem.of(table, task, metric)
        problem = replace(problem, y=problem.hard)
        cuts, method = fit(problem, "auto", np.ones(len(problem.y), bool), np.asarray(read_npy(files.oof)))
    else:
        cuts, method = np.array(decision["cuts"]), decision["method"]
    models = [as_out_of_fold(files.run, shelf.get("repeats", 1), k) for k in shelf["folds"]]
    moved = cuts if method == "fixed" else match_ensemble(task, cuts, models, test)
    return task.decide(test, moved), {"metric": metric.name, "method": method, "one_model": cuts, "deployed": moved}


@dataclass(frozen=True)
class Filled:
    """The sample filled in, and what was decided by.

    `score` reads a written file back and scores it as Kaggle would, `tell` says what more the solution shows.
    """

    frame: pd.DataFrame
    cuts: dict[str, Any]
    score: Callable[[Path], dict[str, float]]
    tell: Callable[[], None] | None = None


@dataclass(frozen=True)
class Job:
    """What is submitted: the shelf of a run (its receipt), and the rows and the contract that it is of."""

    files: RunFiles
    shelf: dict[str, Any]
    competition: Competition
    table: Table
    task: Task
    metric: Metric

    @property
    def rows(self) -> Array:
        """Return which of the predicted rows are to be submitted (a mask)."""
        from pipeline.store.table import TEST

        return np.asarray(self.table.folds[self.table.test] == TEST)

    @property
    def ids(self) -> Array:
        """Return the ids of all predicted rows."""
        return np.asarray(self.table.ids[self.table.test])


def fill_rows(job: Job) -> Filled:
    """Fill in labels or values."""
    from pipeline.competitions.solution import leaderboard, read_solution
    from pipeline.competitions.submission import fill, read_back, read_format

    files, table, path = job.files, job.table, job.files.competition.solution
    form = read_format(job.competition, job.task, job.metric, table.classes, files.competition.data)
    test = np.asarray(read_npy(files.test))
    labels, cuts = decide(table, job.task, job.metric, files, job.shelf, test, form.labels)

    @functools.cache
    def solution() -> Solution:
        groups = dict(zip(table.ids.tolist(), table.groups.tolist(), strict=True))
        return read_solution(form, job.metric, path, groups)

    def score(written: Path) -> dict[str, float]:
        submitted = read_back(form, written, files.submission)
        return leaderboard(form, solution(), submitted) if path.exists() else {}

    filled = fill(form, job.ids[job.rows], test[job.rows], labels[job.rows])
    return Filled(filled, cuts, score, lambda: tell_gains(job, solution()))


def fill_masks(job: Job) -> Filled:
    """Fill in masks, an image at a time, by the very function that decided them for the scores."""
    from pipeline.competitions.mask_submission import mask_leaderboard, read_mask_form, read_masks_back, rle_cells
    from pipeline.scoring.mask_shelf import Scene, decided, deployed

    files, table, path = job.files, job.table, job.files.competition.solution
    form = read_mask_form(job.competition, table.classes, files.competition.data)
    scene = Scene.of(files, job.competition, table, job.task, job.metric, job.shelf["maps"])
    setting, facts = deployed(scene, files, job.shelf)
    wanted = table.test[job.rows]
    masks = decided(scene, scene.maps(files.test, table.test).part(job.rows), wanted, setting)
    frame = rle_cells(form, table.ids[wanted], masks)

    def score(written: Path) -> dict[str, float]:
        cells = read_masks_back(form, written, files.submission, frame)
        sizes = dict(zip(table.ids.tolist(), table.sizes, strict=True))
        return mask_leaderboard(form, job.task, job.metric, path, cells, sizes) if path.exists() else {}

    return Filled(frame, facts, score)


def submit(files: RunFiles, shelf: dict[str, Any], key: str) -> None:
    """Fill the sample, write, read back, score where there is a solution."""
    from pipeline.store.table import read_table
    from pipeline.store.tracking import track

    competition = load_competition(files.competition.name)
    facts = read_table_facts(files.competition)
    table = read_table(files.competition, facts)
    task = task_of(competition, table.classes)
    if shelf["test"] != facts["test"]:
        raise UserError(f"{files.receipt} was made for other test rows than those of today: run make again")
    metric = metric_of(competition, files.competition)
    job = Job(files, shelf, competition, table, task, metric)
    filled = (fill_masks if task.dense else fill_rows)(job)
    with atomic(files.submission) as temporary:
        filled.frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
        scores = filled.score(temporary)
        row = ledger_row(files, shelf, digest_file(temporary), scores)
        ledger.enter(row)
        known = {"run": files.run, "shelf_key": shelf["key"], "level": shelf["level"]}
        facts = {**known, "decision": filled.cuts, **scores}
        outputs = {files.submission: temporary}
        metrics = shelf["metrics"]
        write_receipt(files.submission_receipt, stage="submit", key=key, outputs=outputs, metrics=metrics, **facts)
    with track(files, "submit", facts, key) as tracker:
        tracker.summary({"cv": row.cv, "cv_se": row.se, **scores})
        tracker.artifact(f"{files.run}-submission", "submission", files.submission)
    rows = f"{len(filled.frame)} rows"
    log.info("%s: %s, cv %s %.4f +- %.4f", files.submission, rows, metric.name, row.cv, row.se)
    if scores:
        told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        looks = ledger.looks(files.competition.name)
        log.info("%s: local leaderboard: %s (look %d at these labels)", files.run, told, looks)
        if filled.tell is not None:
            filled.tell()


def tell_gains(job: Job, solution: Solution) -> None:
    """Say what students gained over their teachers on the private rows."""
    from pipeline.competitions.solution import student_gains

    for leaf in leaves(job.files.run) if job.shelf["stage"] in PREDICTING else ():
        gains = student_gains(solution, job.ids, leaf)
        if gains:
            single, blend = (f"{gains[n]:+.4f} +- {gains[n + '_se']:.4f}" for n in ("single", "blend"))
            log.info("%s: private gain over its teacher: single models %s, their blend %s", leaf, single, blend)


def ledger_row(files: RunFiles, shelf: dict[str, Any], made: str, scores: dict[str, float]) -> ledger.Row:
    """Return what the ledger says of a file (`made` is its hash)."""
    believed = shelf["metrics"]
    return ledger.Row(
        run=files.run,
        hash=made,
        time=time.strftime("%Y-%m-%d %H:%M:%S"),
        metric=believed["metric"],
        cv=number(believed["score"]),
        se=number(believed["se"]),
        fold_sd=number(believed["fold_sd"]),
        fold_map=shelf["fold_map"],
        **shelf.get("foretold", {}),
        public=scores.get("public", math.nan),
        private=scores.get("private", math.nan),
    )


if __name__ == "__main__":
    main(run, __doc__, "run")
