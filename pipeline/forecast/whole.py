"""The folds of a trained run put together: predictions or maps, their scores, what the mean of the models is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.holdout import look_at_holdout
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import score_oof, score_run
from pipeline.scoring.retrieval import in_report, search
from pipeline.store.files import read_npy, write_npy
from pipeline.store.shelves import as_out_of_fold, of_repeat

if TYPE_CHECKING:  # imports torch, which a run with nothing to do must not pay for
    from pipeline.training.job import Job


@dataclass(frozen=True)
class Whole:
    """The folds put together: scores, decision, and what else the receipt tells."""

    report: dict[str, Any]
    decision: dict[str, Any] | None
    facts: dict[str, Any] = field(default_factory=dict)


def whole_rows(job: Job) -> Whole:
    """Put predictions (N P) together and score them."""
    from pipeline.forecast.level import size_matched
    from pipeline.store.table import TEST

    files, table = job.files, job.table
    each = np.stack([of_repeat(files.run, table, r) for r in range(job.repeats)])
    # A row's own label was seen by none of the models that its prediction is the mean of. Those of repeats 1, 2, ...
    # saw labels of other rows of its fold, as the models of the other folds' rows do: crossfit, at second hand.
    oof = each.mean(0, dtype=np.float64).astype(np.float32)
    write_npy(files.oof, oof)
    tests = np.stack([as_out_of_fold(files.run, job.repeats, k) for k in job.folds])
    write_npy(files.test, tests.mean(0, dtype=np.float64).astype(np.float32))
    problem = Problem.of(table, job.task, job.metric)
    report, decision = score_run(problem, oof, job.config.decision, lambda k: oof)
    if job.repeats > 1:
        # Untuned, as cuts are fitted on the mean.
        report["by_repeat"] = [score_oof(problem, p, None)["score"] for p in (*each, oof)]
    real = table.folds[table.test] == TEST
    report = size_matched(problem, report, decision, list(tests[:, real]), tests[:, real].mean(0), job.repeats)
    if job.config.retrieval.k:
        report["retrieval"] = searched(job, problem)
    if len(table.holdout):
        models = [as_out_of_fold(files.run, job.repeats, k, "holdout") for k in job.folds]
        write_npy(files.holdout, np.stack(models).mean(0, dtype=np.float64).astype(np.float32))
        report["holdout"] = look_at_holdout(files, table, job.task, job.metric, models, decision)
    return Whole(report, decision)


def searched(job: Job, problem: Problem) -> dict[str, Any]:
    """Score the search for rows by their features: those of a fold among the rows that its model trained on."""
    how, scored, y = job.config.retrieval, job.table.scored, problem.hard.reshape(-1)
    models = [which for which in job.models if len(which.held_out) == 1 and which.target == "fold"]
    found = np.full((2, len(models), len(scored)), np.nan)
    for at, which in enumerate(models):
        files, folds = which.files(job.files), job.within(which).table.folds[scored]
        features, mine = read_npy(files.embeddings)[: len(scored)], np.isin(folds, which.held_out)
        known = np.isin(scored, read_npy(files.rows))
        told = search(features[mine], features[known], y[mine], y[known], how.k, how.pca, how.whiten)
        found[:, at, mine] = told
    return in_report(problem, found[0], found[1], how.k)


def whole_maps(job: Job) -> Whole:
    """Put maps together, decide masks and score them; nothing larger than an image is held in memory."""
    from pipeline.forecast.mask_match import Views, size_matched
    from pipeline.masks.maps import write_mean
    from pipeline.scoring.mask_shelf import Scene, look_at_maps, put_together, score_maps
    from pipeline.training.mask_job import extra_maps

    files, table = job.files, job.table
    shown = {"extra": extra_maps(job), "scale": job.config.predict.shelf_scale}
    scene = Scene.of(files, job.competition, table, job.task, job.metric, shown)
    put_together(files, scene)
    for name in ("test", "holdout") if len(table.holdout) else ("test",):
        write_mean(getattr(files, name), [read_npy(getattr(which.files(files), name)) for which in job.whole])
    report, decision = score_maps(scene, scene.maps(files.oof, table.scored), job.config.decision)
    shelf = {"folds": job.folds, "repeats": job.repeats, "decision": decision}
    report = size_matched(scene.problem, report, Views.of(scene, files, shelf), job.repeats)
    if len(table.holdout):
        report["holdout"] = look_at_maps(scene, files, shelf)
    return Whole(report, decision, {"maps": scene.shown})
