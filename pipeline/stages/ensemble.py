"""Blend runs by weighted averaging: weights fitted without fold k for fold k, on all rows for the test set."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.cuts import crossfit
from pipeline.scoring.metrics import Metric, metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words, score_run
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, lock, number, read_npy, write_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, worst, write_receipt
from pipeline.store.runs import Ensemble, load_run
from pipeline.store.shelves import PREDICTING, as_parent, read_stage, refuse_strangers
from pipeline.tasks import TASKS, Task

if TYPE_CHECKING:  # imports scipy, which a blend with nothing to do must not pay for
    from pipeline.scoring.blend import Blend, Weights

log = logging.getLogger("pipeline.ensemble")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a blend."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Ensemble):
        raise UserError(
            f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make ensemble'
        )
    task = TASKS[competition.task]
    metric = metric_of(competition, files.competition)
    refuse_space(files, config.space, task, metric)
    with lock(files.lock, f"run {args.run}"):
        table = read_table_facts(files.competition)
        receipts = {member: read_stage(member, "member", *PREDICTING) for member in config.members}
        refuse_strangers(receipts, table)
        key = built_key(config, competition, receipts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            blend(files, config, task, metric, receipts, table, key)


def refuse_space(files: RunFiles, space: str, task: Task, metric: Metric) -> None:
    """Refuse a blend space that gives the metric what it cannot score."""
    ranks = metric.name in ("roc_auc", "average_precision", "weighted_auc") and task.name != "multiclass"
    if space == "rank" and not ranks:
        raise UserError(
            f'{files.config}: space = "rank" gives no probabilities, which {metric.name} of a {task.name} task needs'
        )
    if space == "logit" and not task.probabilities:
        raise UserError(f'{files.config}: space = "logit" needs probabilities; a {task.name} task has values')


def write_test(files: RunFiles, task: Task, space: str, members: list[RunFiles], weights: Weights) -> None:
    """Blend the members' test predictions: model by model with the weights of its fold, and the deployed ones."""
    from pipeline.scoring.blend import from_space, mix, to_space

    def blended(paths: list[Path], how: Array) -> Array:
        mixed = mix([to_space(task, read_npy(path), space) for path in paths], how)
        return from_space(task, mixed, space).astype(np.float32)

    for k, how in weights.by_fold.items():
        write_npy(files.fold(k).test, blended([member.fold(k).test for member in members], how))
    write_npy(files.test, blended([member.test for member in members], weights.deployed))


def compare(receipts: dict[str, dict[str, Any]], problem: Problem, solver: Blend, decision: str) -> dict[str, Any]:
    """Return what a person compares the blend with, decided as the blend is: members alone and the uniform blend."""
    even = solver.predict(np.full(len(receipts), 1 / len(receipts)))
    if problem.task.cuts and problem.metric.label:
        labels = crossfit(problem, decision, lambda k: even).labels
        uniform = problem.judge(labels)
    else:
        uniform = problem.score(even)
    return {"members": {name: number(r["metrics"]["score"]) for name, r in receipts.items()}, "uniform": uniform}


def blend(
    files: RunFiles,
    config: Ensemble,
    task: Task,
    metric: Metric,
    receipts: dict[str, dict[str, Any]],
    facts: dict[str, Any],
    key: str,
) -> None:
    """Fit weights, blend, score, write the shelf."""
    from pipeline.scoring.blend import Blend, to_space
    from pipeline.store.table import read_table
    from pipeline.store.tracking import track

    started, table = time.monotonic(), read_table(files.competition, facts)
    members, first = [RunFiles(member) for member in receipts], next(iter(receipts.values()))
    problem = Problem.of(table, task, metric)
    oofs = [np.asarray(read_npy(member.oof)) for member in members]
    spaced = [to_space(task, oof, config.space, problem.folds) for oof in oofs]
    hand = None if config.weights is None else np.array(config.weights)
    solver = Blend(problem, spaced, config.space, config.method, hand, config.seed, config.steps, config.bags)
    weights = solver.crossfit()

    def view(k: int | None) -> Array:
        return solver.predict(weights.deployed if k is None else weights.by_fold[k]).astype(np.float32)

    write_npy(files.oof, weights.oof)
    write_test(files, task, config.space, members, weights)
    report, decision = score_run(problem, weights.oof, config.decision, view)
    report |= compare(receipts, problem, solver, config.decision)
    own = "blind" if config.method in ("uniform", "hand") else "crossfit"
    level = {str(k): worst(own, *(r["level"][str(k)] for r in receipts.values())) for k in weights.by_fold}
    with track(files, "ensemble", config.model_dump(), key) as tracker:
        tracker.summary({f"cv_{metric.name}": report["score"], "cv_se": report["se"]})
    write_receipt(
        files.receipt,
        stage="ensemble",
        key=key,
        outputs=[files.oof, files.test, *(files.fold(k).test for k in weights.by_fold)],
        run=files.run,
        config=config.model_dump(),
        **{name: first[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=[as_parent("member", r) for r in receipts.values()],
        level=level,
        weights=dict(zip(receipts, weights.deployed.tolist(), strict=True)),
        weights_by_fold=weights.by_fold,
        method=weights.method,
        methods=weights.methods,
        gap=weights.gap,
        decision=decision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    shares = ", ".join(f"{w:.3f} {name}" for name, w in zip(receipts, weights.deployed, strict=True))
    log.info("%s: %s weights (%s): %s", files.run, config.method, weights.method, shares)
    best = max(report["members"], key=lambda name: float(metric.gain(report["members"][name], 0.0)))
    if metric.gain(report["members"][best], report["score"]) > 0:
        log.warning("warning: %s alone scores better than %s", best, files.run)
    alone = ", ".join(f"{name} {value:.4f}" for name, value in report["members"].items())
    log.info("%s: %s; alone: %s; uniform %.4f", files.run, in_words(report), alone, report["uniform"])


if __name__ == "__main__":
    main(run, __doc__, "run")
