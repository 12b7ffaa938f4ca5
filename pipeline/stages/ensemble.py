"""Blend runs by weighted averaging: weights fitted without fold k for fold k, on all rows for the test set."""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import numpy as np

from pipeline.scoring.metrics import get_metric
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Ensemble, load_competition, load_run
from pipeline.store.errors import UserError
from pipeline.store.files import Array, lock, read_json, read_npy, write_npy
from pipeline.store.keys import ensemble_key
from pipeline.store.receipts import damaged, fresh, touch, worst, write_receipt
from pipeline.tasks import TASKS

log = logging.getLogger("pipeline.ensemble")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a blend."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Ensemble):
        raise UserError(
            f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make ensemble'
        )
    get_metric(competition.metric, TASKS[competition.task])
    with lock(files.lock, f"run {args.run}"):
        receipts = {member: read_member(member) for member in config.members}
        refuse_strangers(receipts)
        key = ensemble_key(config, competition, receipts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        handler = log_to(files.log)
        try:
            blend(files, config, competition.metric, receipts, key)
        finally:
            handler.close()
            logging.getLogger("pipeline").removeHandler(handler)


def read_member(member: str) -> dict[str, Any]:
    """Return the receipt of a member, whose files must be what it says."""
    files = RunFiles(member)
    if not files.receipt.exists():
        raise UserError(f"member {member!r} has no {files.receipt}: run make train COMP=... NAME=... for it first")
    receipt: dict[str, Any] = read_json(files.receipt)
    broken = damaged(receipt)
    if broken:
        raise UserError(
            f"member {member!r}: {broken[0]} is not what its receipt says: delete {files.receipt} and run it again"
        )
    return receipt


def refuse_strangers(receipts: dict[str, dict[str, Any]]) -> None:
    """Refuse members whose rows, folds or classes are not those of the first."""
    first, *others = receipts
    for what, name in (("fold_map", "fold map"), ("rows", "row ids"), ("classes", "class order")):
        for other in others:
            if receipts[other][what] != receipts[first][what]:
                raise UserError(f"member {other!r} has another {name} than {first!r}: train both on the same folds")


def blend(files: RunFiles, config: Ensemble, metric_name: str, receipts: dict[str, dict[str, Any]], key: str) -> None:
    """Fit weights, blend, score."""
    from pipeline.scoring.blend import Blend, from_space, mix, to_space
    from pipeline.scoring.cuts import Problem
    from pipeline.scoring.report import in_words, score_run
    from pipeline.store.table import read_table
    from pipeline.store.tracking import track

    started = time.monotonic()
    competition = load_competition(files.competition.name)
    table, task = read_table(files.competition.name), TASKS[competition.task]
    scored = table.scored
    if next(iter(receipts.values()))["fold_map"] != table.fold_map():
        raise UserError(
            f"the members of {files.run} have another fold map than {files.competition.folds}: train them again"
        )
    metric = get_metric(metric_name, task)
    if config.space == "rank" and metric_name not in ("roc_auc", "average_precision"):
        raise UserError(f'{files.config}: space = "rank" gives no probabilities; {metric_name} needs them')
    if config.space == "logit" and not task.probabilities:
        raise UserError(f'{files.config}: space = "logit" needs probabilities; a {task.name} task has values')
    folds, members = table.folds[scored], [RunFiles(member) for member in config.members]
    problem = Problem(task, metric, len(table.classes), task.targets(table.y[scored]), folds, table.group)
    oofs = [np.asarray(read_npy(member.oof)) for member in members]
    hand = None if config.weights is None else np.array(config.weights)
    spaced = [to_space(task, oof, config.space, folds) for oof in oofs]
    solver = Blend(problem, spaced, config.space, config.method, hand, config.seed, config.steps, config.bags)
    weights, methods, blended = {}, {}, np.zeros(oofs[0].shape, np.float32)
    for k in np.unique(folds).tolist():
        weights[k], methods[k], _ = solver.fit(folds != k)
        blended[folds == k] = solver.predict(weights[k])[folds == k]
    deployed, method, gap = solver.fit(np.ones(len(folds), bool))
    weights[None] = deployed

    def on_test(arrays: list[Array], how: Array) -> Array:
        in_space = [to_space(task, array, config.space) for array in arrays]
        return from_space(task, mix(in_space, how), config.space).astype(np.float32)

    write_npy(files.oof, blended)
    for k in np.unique(folds).tolist():
        write_npy(files.fold(k).test, on_test([read_npy(m.fold(k).test) for m in members], weights[k]))
    write_npy(files.test, on_test([read_npy(m.test) for m in members], deployed))
    report, decision = score_run(problem, blended, config.decision, lambda k: solver.predict(weights[k]).astype(np.float32))
    cuts = task.default_cuts(problem.classes)
    report["members"] = {m.run: metric(task, problem.y, oof, cuts) for m, oof in zip(members, oofs, strict=True)}
    report["uniform"] = metric(task, problem.y, solver.predict(np.full(len(members), 1 / len(members))), cuts)
    report["weights_in_sample"] = metric(task, problem.y, solver.predict(deployed), cuts)
    fitted = any(name not in ("uniform", "hand") for name in [method, *methods.values()]) or config.method == "auto"
    level = {
        str(k): worst(*(receipt["level"][str(k)] for receipt in receipts.values()), "crossfit" if fitted else "blind")
        for k in methods
    }
    first = next(iter(receipts.values()))
    with track(files, "ensemble", config.model_dump(), key) as tracker:
        tracker.summary({f"cv_{metric.name}": report["score"], "cv_se": report["se"]})
    write_receipt(
        files.receipt,
        stage="ensemble",
        key=key,
        outputs=[files.oof, files.test, *(files.fold(k).test for k in methods)],
        run=files.run,
        config=config.model_dump(),
        fold_map=first["fold_map"],
        rows=first["rows"],
        classes=first["classes"],
        folds=list(methods),
        parents=[{"run": m.run, "key": receipts[m.run]["key"], "level": receipts[m.run]["level"]} for m in members],
        level=level,
        method=method,
        methods=methods,
        weights=dict(zip(config.members, deployed.tolist(), strict=True)),
        weights_by_fold={str(k): weights[k] for k in methods},
        gap=gap,
        decision=decision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    shares = ", ".join(f"{w:.3f} {m.run}" for w, m in zip(deployed, members, strict=True))
    log.info("%s: %s weights (%s): %s", files.run, config.method, method, shares)
    alone = ", ".join(f"{name} {value:.4f}" for name, value in report["members"].items())
    log.info("%s: %s; alone: %s; uniform %.4f", files.run, in_words(report), alone, report["uniform"])


if __name__ == "__main__":
    main(run, __doc__, "run")
