"""The score on the holdout: rows that nothing learnt from and nothing was tuned on. Every look at it is counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.cuts import match_ensemble
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, digest_file, read_npy
from pipeline.store.looks import look
from pipeline.tasks import Task

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table

log = logging.getLogger("pipeline.holdout")


def look_at_holdout(
    files: RunFiles, table: Table, task: Task, metric: Metric, models: list[Array], decision: dict[str, Any] | None
) -> dict[str, Any]:
    """Score a run's `holdout.npy`, say so, and return the score with the number of looks so far."""
    return tell(
        files, metric, score_holdout(table, task, metric, models, np.asarray(read_npy(files.holdout)), decision)
    )


def tell(files: RunFiles, metric: Metric, scored: dict[str, Any]) -> dict[str, Any]:
    """Say the score of a run's `holdout.npy`, count the look, and return both."""
    scored["looks"] = look(files.competition, files.run, digest_file(files.holdout), metric.name, scored)
    told = f"{scored['score']:.4f} +- {scored['se']:.4f} (se, n={scored['n']})"
    log.info("%s: holdout %s %s, look %d at these labels", files.run, metric.name, told, scored["looks"])
    return scored


def score_holdout(
    table: Table, task: Task, metric: Metric, models: list[Array], mean: Array, decision: dict[str, Any] | None
) -> dict[str, Any]:
    """Return score, standard error (by group) and n of the holdout as a submission would be scored.

    `mean` (N P) is the deployed prediction, `models` those of its K models, to whose mean tuned cuts are moved.
    """
    problem = Problem.of(table, task, metric, table.holdout)
    cuts = problem.cuts
    if decision is not None and decision["method"] != "fixed":
        cuts = match_ensemble(task, np.array(decision["cuts"]), models, mean)
    return judged(problem, metric.wanted(task, mean, cuts))


def judged(problem: Problem, guess: Array) -> dict[str, Any]:
    """Return score, standard error (by group) and n of what the metric wants."""
    n = len(problem.y)
    se = standard_error(lambda draws: problem.judge(guess, draws), n, problem.group)
    return {"score": problem.judge(guess), "se": se, "n": n}
