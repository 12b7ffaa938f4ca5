"""A blend or a stacker, fitted and put on its shelf: of predictions or of maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.cuts import crossfit
from pipeline.scoring.holdout import look_at_holdout
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import score_run
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, number, read_npy, write_npy
from pipeline.store.runs import STACKERS, Ensemble
from pipeline.store.shelves import as_out_of_fold

if TYPE_CHECKING:  # imports pandas, which a blend with nothing to do must not pay for
    from pipeline.store.table import Table


@dataclass(frozen=True)
class Job:
    """A blend to be fitted: its config, rows, the members' receipts and OOF predictions (N P each; none for maps)."""

    files: RunFiles
    config: Ensemble
    competition: Competition
    table: Table
    problem: Problem
    receipts: dict[str, dict[str, Any]]
    oofs: list[Array]

    @property
    def members(self) -> list[RunFiles]:
        """Return the members' shelves."""
        return [RunFiles(member) for member in self.receipts]

    def fold(self, k: int, name: str) -> list[Array]:
        """Return what the members say of the `test` or `holdout` rows (N P each) as rows of fold k are predicted."""
        return [as_out_of_fold(member, r.get("repeats", 1), k, name) for member, r in self.receipts.items()]


@dataclass(frozen=True)
class Fitted:
    """A blend or a stacker, fitted: OOF predictions (N P), all scored rows as fold k may see them (None: as deployed),
    `test` or `holdout` rows by the members' models of fold k under what was fitted without fold k, and as deployed.
    """

    oof: Array
    folds: list[int]
    view: Callable[[int | None], Array]
    model: Callable[[str, int], Array]
    deployed: Callable[[str], Array]
    facts: dict[str, Any]
    told: str


def weighted(job: Job) -> Fitted:
    """Fit weights."""
    from pipeline.scoring.blend import Blend, from_space, mix, to_space

    config, task, problem = job.config, job.problem.task, job.problem
    spaced = [to_space(task, oof, config.space, problem.folds) for oof in job.oofs]
    hand = None if config.weights is None else np.array(config.weights)
    solver = Blend(problem, spaced, config.space, config.method, hand, config.seed, config.steps, config.bags)
    weights = solver.crossfit()

    def blended(said: list[Array], how: Array) -> Array:
        mixed = mix([to_space(task, p, config.space) for p in said], how)
        return from_space(task, mixed, config.space).astype(np.float32)

    shares = ", ".join(f"{w:.3f} {name}" for name, w in zip(job.receipts, weights.deployed, strict=True))
    return Fitted(
        weights.oof,
        list(weights.by_fold),
        lambda k: solver.predict(weights.deployed if k is None else weights.by_fold[k]).astype(np.float32),
        lambda name, k: blended(job.fold(k, name), weights.by_fold[k]),
        lambda name: blended([read_npy(getattr(member, name)) for member in job.members], weights.deployed),
        {
            "weights": dict(zip(job.receipts, weights.deployed.tolist(), strict=True)),
            "weights_by_fold": weights.by_fold,
            "method": weights.method,
            "methods": weights.methods,
            "gap": weights.gap,
        },
        f"{config.method} weights ({weights.method}): {shares}",
    )


def stacked(job: Job) -> Fitted:
    """Fit a stacker on the members' predictions and the metadata."""
    from pipeline.scoring.stack import Stack, inputs

    task, table = job.problem.task, job.table
    solver = Stack(job.problem, inputs(task, job.oofs, table.meta[table.scored]), job.config.method, job.config.seed)
    oof, by_fold, deployed = solver.crossfit()

    def model(name: str, k: int, fitted: list[Any]) -> Array:
        return solver.predict(fitted, inputs(task, job.fold(k, name), table.meta[getattr(table, name)]))

    def everywhere(name: str) -> Array:
        # What was fitted on one model a row is asked of one model a row, K times.
        return np.asarray(np.mean([model(name, k, deployed) for k in by_fold], 0, dtype=np.float64), np.float32)

    return Fitted(
        oof,
        list(by_fold),
        lambda k: solver.predict(deployed if k is None else by_fold[k], solver.x),
        lambda name, k: model(name, k, by_fold[k]),
        everywhere,
        {"method": job.config.method},
        f"{job.config.method} stacker on {solver.x.shape[1]} columns",
    )


def predict(files: RunFiles, fitted: Fitted, name: str) -> tuple[dict[int, Array], Array]:
    """Write and return the predictions of the `test` or `holdout` rows: of each fold, and as deployed."""
    models, deployed = {k: fitted.model(name, k) for k in fitted.folds}, fitted.deployed(name)
    for k, model in models.items():
        write_npy(getattr(files.fold(k), name), model)
    write_npy(getattr(files, name), deployed)
    return models, deployed


def compare(job: Job) -> dict[str, Any]:
    """Return what a person compares the blend with, decided as the blend is: members alone and the uniform blend."""
    from pipeline.scoring.blend import from_space, mix, to_space

    problem, space = job.problem, job.config.space
    spaced = [to_space(problem.task, oof, space, problem.folds) for oof in job.oofs]
    even = from_space(problem.task, mix(spaced, np.full(len(spaced), 1 / len(spaced))), space)
    if problem.task.cuts and problem.metric.label:
        labels = crossfit(problem, job.config.decision, lambda k: even).labels
        uniform = problem.judge(labels)
    else:
        uniform = problem.score(even)
    return {"members": {name: number(r["metrics"]["score"]) for name, r in job.receipts.items()}, "uniform": uniform}


@dataclass(frozen=True)
class Blended:
    """A blend on its shelf: its folds, scores, decision, the files written, what else the receipt tells, in words."""

    folds: list[int]
    report: dict[str, Any]
    decision: dict[str, Any] | None
    outputs: list[Path]
    facts: dict[str, Any]
    told: str


def blend_rows(job: Job) -> Blended:
    """Blend or stack predictions (N P)."""
    from pipeline.forecast.level import size_matched
    from pipeline.store.table import TEST

    files, config, problem, table = job.files, job.config, job.problem, job.table
    fitted = stacked(job) if config.method in STACKERS else weighted(job)
    write_npy(files.oof, fitted.oof)
    tests, deployed = predict(files, fitted, "test")
    report, decision = score_run(problem, fitted.oof, config.decision, fitted.view)
    real = table.folds[table.test] == TEST
    views, repeats = [test[real] for test in tests.values()], len(table.splits)
    report = size_matched(problem, report, decision, views, deployed[real], repeats)
    report |= compare(job)
    outputs = [files.oof, files.test, *(files.fold(k).test for k in fitted.folds)]
    if holds_out(job):
        models = list(predict(files, fitted, "holdout")[0].values())
        outputs += [files.holdout, *(files.fold(k).holdout for k in fitted.folds)]
        report["holdout"] = look_at_holdout(files, table, problem.task, problem.metric, models, decision)
    return Blended(fitted.folds, report, decision, outputs, fitted.facts, fitted.told)


def holds_out(job: Job) -> bool:
    """Say whether there is a holdout that every member predicts; one that post-processes (`lb`) does not."""
    return bool(len(job.table.holdout)) and all(member.holdout.exists() for member in job.members)


def blend_maps(job: Job) -> Blended:
    """Blend maps; of a fold's rows the decision is chosen on the other folds' rows, mixed by weights blind to it."""
    from pipeline.forecast.mask_match import Views, size_matched
    from pipeline.scoring.mask_ensemble import Blend, apart, refuse_unlike
    from pipeline.scoring.mask_shelf import Scene, look_at_maps, score_maps

    files, config = job.files, job.config
    shown = [receipt["maps"] for receipt in job.receipts.values()]
    if odd := refuse_unlike(shown):
        raise UserError(f"{files.config}: {odd}")
    scene = Scene.of(files, job.competition, job.table, job.problem.task, job.problem.metric, shown[0])
    hand = None if config.weights is None else np.array(config.weights)
    repeats = {member: receipt.get("repeats", 1) for member, receipt in job.receipts.items()}
    solver = Blend(scene, repeats, config.method, hand, config.seed)
    weights = solver.fit()
    solver.write_oof(files.oof, weights)
    outputs = [files.oof, *solver.write_others(files, weights, "test")]
    if holds_out(job):
        outputs += solver.write_others(files, weights, "holdout")
    facts = {
        "maps": scene.shown,
        "weights": dict(zip(job.receipts, weights.deployed.tolist(), strict=True)),
        "weights_by_fold": weights.by_fold,
        "method": weights.method,
        "methods": weights.methods,
        "gap": weights.gap,
    }
    oof = scene.maps(files.oof, job.table.scored)
    report, decision = score_maps(scene, oof, config.decision, apart(scene, facts))
    shelf = {"folds": list(weights.by_fold), "decision": decision}
    report = size_matched(scene.problem, report, Views.of(scene, files, shelf), len(job.table.splits))
    if holds_out(job):
        report["holdout"] = look_at_maps(scene, files, shelf)
    alone = {name: number(receipt["metrics"]["score"]) for name, receipt in job.receipts.items()}
    report |= {"members": alone, "uniform": solver.uniform()}
    shares = ", ".join(f"{w:.3f} {name}" for name, w in zip(job.receipts, weights.deployed, strict=True))
    told = f"{config.method} weights ({weights.method}): {shares}"
    return Blended(list(weights.by_fold), report, decision, outputs, facts, told)
