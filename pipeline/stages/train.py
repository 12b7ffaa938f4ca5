"""Train one model a fold, predict the rows it never saw and the test rows, and score the run."""

from __future__ import annotations

import argparse
import functools
import logging
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.forecast.whole import whole_maps, whole_rows
from pipeline.launch import side_by_side, slots
from pipeline.scoring.metrics import metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import lock, read_json, require_space, write_json
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.store.plugs import refuse_unknown_names
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.store.roles import read_parents, refuse_damaged, refuse_misfit
from pipeline.store.runs import load_run
from pipeline.store.shelves import as_parent
from pipeline.store.train import Train
from pipeline.tasks import task_of

if TYPE_CHECKING:  # both import torch, which a run with nothing to do must not pay for
    from pipeline.nets.machine import Machine
    from pipeline.training.job import Job
    from pipeline.training.which import Which

log = logging.getLogger("pipeline.train")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a run: models, out-of-fold and test predictions, scores."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Train):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make train')
    metric = metric_of(competition, files.competition)
    refuse_misfit(config, competition, files.config)
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        refuse_other_folds(files, facts["fold_map"])
        metric.refuse_grades(task_of(competition, facts["classes"]), facts["classes"])
        parents = read_parents(config, files, facts)
        key = train_keys(config, competition, facts)[2]
        if fresh(files.receipt, key):
            return touch(files.receipt)
        refuse_unknown_names(config, task_of(competition, facts["classes"]).dense)
        with log_to(files.log):
            for run in filter(None, (config.teacher, config.init, config.chosen_by)):
                refuse_damaged(run)
            if config.init:
                from pipeline.images.near import refuse_near_copies

                refuse_near_copies(config.init, files)
            started, job = time.monotonic(), pose(config, competition, files, facts, parents)
            fit_and_predict(job)
            assemble(job, key, started)


def pose(
    config: Train,
    competition: Competition,
    files: RunFiles,
    facts: dict[str, Any],
    parents: dict[str, dict[str, Any]],
) -> Job:
    """Return what the models of a run share, with the choices of the machine."""
    from pipeline.store.table import read_table
    from pipeline.training.inference import with_inference
    from pipeline.training.job import Job
    from pipeline.training.probe import with_batch_size, with_fastest

    metric, table = metric_of(competition, files.competition), read_table(files.competition, facts)
    fitted, predicted, _ = train_keys(config, competition, facts)
    machine = machine_of(files, config.precision, fitted)
    halves = bool(config.pseudo and parents["pseudo"]["config"]["halves"])
    named = tuple(as_parent(role, receipt) for role, receipt in parents.items())
    job = Job(files, config, competition, table, metric, machine, fitted, predicted, halves, named)
    return with_inference(with_batch_size(with_fastest(where_shifted(job))))


def where_shifted(job: Job) -> Job:
    """Return the job without `[semi]` where that waits for a shift of the test images and none is shown; asked once."""
    if job.semi.method == "none" or job.semi.when == "always":
        return job
    known = read_json(job.files.state) if job.files.state.exists() else {}
    if known.get("fit_hash") == job.fit_key and "unshifted" in known:
        return replace(job, unshifted=known["unshifted"])
    from pipeline.forecast.shift import SHOWN
    from pipeline.forecast.sources import shift_of, statistics_of

    shift = shift_of(job, statistics_of(job, job.size))
    seen = f"AUC {shift.auc:.3f} ({shift.low:.3f} .. {shift.high:.3f}), permutation p {shift.p:.3f}"
    verdict = "a shift: models are adapted" if shift.p < SHOWN else "no shift shown: no model is adapted"
    log.info('%s: semi.when = "shifted": test against scored images %s: %s', job.files.run, seen, verdict)
    return replace(job, unshifted=not shift.p < SHOWN)


def refuse_other_folds(files: RunFiles, fold_map: str) -> None:
    """Refuse a shelf that was written under another fold map: its models saw rows that are held out now."""
    if files.state.exists() and read_json(files.state)["fold_map"] != fold_map:
        raise UserError(
            f"{files.folder} was written under another fold map than {files.competition.folds}: its models saw rows "
            f"that are held out now; delete {files.folder} or train under another name"
        )


def machine_of(files: RunFiles, precision: str, fitted: str) -> Machine:
    """Return what the machine chooses; what was chosen once holds until the run is another one."""
    from pipeline.nets.machine import Machine, choose_machine

    machine = choose_machine(precision, slots())
    known = read_json(files.state) if files.state.exists() else {}
    if known.get("fit_hash") == fitted and known["machine"]["device"] == machine.device:
        machine = Machine(**known["machine"])
    machine.prepare()
    return machine


def fit_and_predict(job: Job) -> None:
    """Fit what is not fitted, predict what is not predicted."""
    from pipeline.store.tracking import track
    from pipeline.training.job import check_names
    from pipeline.training.patches import count as per_image
    from pipeline.training.shelf import join_halves, predict_fold
    from pipeline.training.weights import choose_epochs

    check_names(job)
    if job.metric.draws:  # the competition's own file: what it cannot score is told before anything is trained
        problem = Problem.of(job.table, job.task, job.metric)
        problem.score(problem.ideal)
    files, table, settings = job.files, job.table, job.config.model_dump()
    rows = 2 * len(table.scored) + 2 * len(table.test)
    width = job.task.width(len(table.classes))
    need = rows * len(job.models) * (width * 4 + 1024)
    need += rows // 2 * len(job.models) * (per_image(job) - 1) * width * 4
    require_space(files.folder, need, "the predictions and features of the run")
    chosen = {"machine": asdict(job.machine), "unshifted": job.unshifted}
    state = {"fold_map": table.fold_map(), "fit_hash": job.fit_key, **chosen}
    write_json(files.state, state)
    if job.semi.method != "none":
        log.info("%s: of each fold a second model is adapted to the test images: twice the time", files.run)
    count = min(slots(), len(unfitted(job)))
    if count > 1:
        side_by_side(functools.partial(fit_part, files.run), count)
    else:
        fit(job, unfitted(job))
    if job.config.select == "best":
        choose_epochs(job)
    for which in job.models:
        if not fresh(which.files(files).receipt, job.predict_key):
            with track(files, "train", settings, job.predict_key, which.title) as tracker:
                predict_fold(job, which, tracker)
    for which in job.whole if job.halves else []:
        if not fresh(which.files(files).receipt, job.predict_key):
            join_halves(job, which)


def unfitted(job: Job) -> list[Which]:
    """Return the models that are still to be fitted."""
    from pipeline.training.weights import is_fitted

    done = [fresh(which.files(job.files).receipt, job.predict_key) or is_fitted(job, which) for which in job.models]
    return [which for which, is_done in zip(job.models, done, strict=True) if not is_done]


def fit(job: Job, models: list[Which]) -> None:
    """Fit some models, and predict with each that is final."""
    from pipeline.store.tracking import track
    from pipeline.training.fold import fit_fold
    from pipeline.training.frozen import fit_frozen
    from pipeline.training.shelf import predict_fold

    for which in models:
        with track(job.files, "train", job.config.model_dump(), job.fit_key, which.title) as tracker:
            if job.config.fit != "network":
                fit_frozen(job, which, tracker)
                continue
            fit_fold(job, which, tracker)
            if job.config.select == "last" and job.semi.method == "none":  # else a fold's two models are needed
                predict_fold(job, which, tracker)


def fit_part(run: str, slot: int, count: int) -> None:
    """Fit every `count`-th model of a run that another process has prepared and waits for."""
    files, config = RunFiles(run), load_run(run)
    assert isinstance(config, Train)
    facts = read_table_facts(files.competition)
    job = pose(config, load_competition(files.competition.name), files, facts, read_parents(config, files, facts))
    with log_to(files.log):
        fit(job, [which for n, which in enumerate(job.models) if n % count == slot and which in unfitted(job)])


def assemble(job: Job, key: str, started: float) -> None:
    """Put the folds together, score the run, write its receipt."""
    files, table, facts = job.files, job.table, read_table_facts(job.files.competition)
    made = (whole_maps if job.task.dense else whole_rows)(job)
    shelves = [which.files(files) for which in job.whole]
    parts = [path for shelf in shelves for path in (shelf.receipt, shelf.oof, shelf.test)]
    if len(table.holdout):
        parts += [files.holdout, *(shelf.holdout for shelf in shelves)]
    parts += [which.files(files).receipt for which in job.models if len(which.held_out) > 1]
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
        rows=facts["scored"],
        test=facts["test"],
        classes=table.classes,
        folds=job.folds,
        repeats=job.repeats,
        parents=list(job.parents),
        level={str(k): job.level for k in job.folds},
        machine=asdict(job.machine),
        unshifted=job.unshifted,
        **made.facts,
        decision=made.decision,
        metrics=made.report,
        seconds=round(time.monotonic() - started, 1),
    )
    log.info("%s: %s", files.run, in_words(made.report))


if __name__ == "__main__":
    main(run, __doc__, "run")
