"""Blend runs by weighted averaging, or stack them: fitted without fold k for fold k, on all rows for the test set."""

from __future__ import annotations

import argparse
import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from pipeline.forecast.blending import Job, blend_maps, blend_rows
from pipeline.scoring.metrics import Metric, metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import lock, read_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, worst, write_receipt
from pipeline.store.runs import STACKERS, Ensemble, load_run
from pipeline.store.shelves import PREDICTING, as_parent, read_stage, refuse_strangers
from pipeline.tasks import Task, refuse_several, task_of

if TYPE_CHECKING:  # imports pandas, which a blend with nothing to do must not pay for
    pass

log = logging.getLogger("pipeline.ensemble")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a blend."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Ensemble):
        raise UserError(
            f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make ensemble'
        )
    if config.method in (*STACKERS, "convex"):
        refuse_several(competition, files.config, f"method = {config.method!r}")
    task = task_of(competition, [])
    metric = metric_of(competition, files.competition)
    refuse_space(files, config.space, task, metric)
    refuse_stacker(files, config.method, task, competition.soft or competition.unknown == "mask")
    if task.dense and (config.method not in ("auto", "uniform", "convex", "hand") or config.space != "probability"):
        raise UserError(f'{files.config}: masks are blended by "auto", "convex", "uniform" or "hand", as probabilities')
    with lock(files.lock, f"run {args.run}"):
        table = read_table_facts(files.competition)
        receipts = {member: read_stage(member, "member", *PREDICTING) for member in config.members}
        refuse_strangers(receipts, table)
        if decided := [member for member, r in receipts.items() if task.dense and r["stage"] == "lb"]:
            raise UserError(f"{files.config}: {decided[0]!r} is of stage lb, its masks are decided: name the run below")
        key = built_key(config, competition, receipts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.store.table import read_table

            here = read_table(files.competition, table)
            task = task_of(competition, here.classes)
            problem = Problem.of(here, task, metric)
            oofs = [] if task.dense else [np.asarray(read_npy(RunFiles(member).oof)) for member in receipts]
            blend(Job(files, config, competition, here, problem, receipts, oofs), key)


def refuse_space(files: RunFiles, space: str, task: Task, metric: Metric) -> None:
    """Refuse a blend space that gives the metric what it cannot score."""
    ranks = metric.name in ("roc_auc", "average_precision", "weighted_auc") and task.name != "multiclass"
    if space == "rank" and not ranks:
        raise UserError(
            f'{files.config}: space = "rank" gives no probabilities, which {metric.name} of a {task.name} task needs'
        )
    if space == "logit" and not task.probabilities:
        raise UserError(f'{files.config}: space = "logit" needs probabilities; a {task.name} task has values')


def refuse_stacker(files: RunFiles, method: str, task: Task, vague: bool) -> None:
    """Refuse a stacker that does not fit the task, or whose targets are soft or partly unknown (`vague`)."""
    if method in STACKERS and vague:
        raise UserError(f'{files.config}: method = "{method}" needs labels that are known and hard: use a blend')
    other = {"ridge": task.probabilities, "logistic": not task.probabilities}
    if other.get(method, False):
        what, use = ("probabilities", "logistic") if task.probabilities else ("values", "ridge")
        raise UserError(f'{files.config}: method = "{method}": a {task.name} task has {what}; use "{use}" or "boosted"')


def blend(job: Job, key: str) -> None:
    """Fit, predict, score, write the shelf."""
    from pipeline.store.tracking import track

    started, files, config, problem = time.monotonic(), job.files, job.config, job.problem
    made = (blend_maps if problem.task.dense else blend_rows)(job)
    report = made.report
    own = "blind" if config.method in ("uniform", "hand") else "crossfit"
    level = {str(k): worst(own, *(r["level"][str(k)] for r in job.receipts.values())) for k in made.folds}
    with track(files, "ensemble", config.model_dump(), key) as tracker:
        tracker.summary({f"cv_{problem.metric.name}": report["score"], "cv_se": report["se"]})
    write_receipt(
        files.receipt,
        stage="ensemble",
        key=key,
        outputs=made.outputs,
        run=files.run,
        config=config.model_dump(),
        **{name: next(iter(job.receipts.values()))[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=[as_parent("member", r) for r in job.receipts.values()],
        level=level,
        **made.facts,
        decision=made.decision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    log.info("%s: %s", files.run, made.told)
    best = max(report["members"], key=lambda name: float(problem.metric.gain(report["members"][name], 0.0)))
    if problem.metric.gain(report["members"][best], report["score"]) > 0:
        log.warning("warning: %s alone scores better than %s", best, files.run)
    alone = ", ".join(f"{name} {value:.4f}" for name, value in report["members"].items())
    log.info("%s: %s; alone: %s; uniform %.4f", files.run, in_words(report), alone, report["uniform"])


if __name__ == "__main__":
    main(run, __doc__, "run")
