"""Predict the score of every row and of the submission, and post-process where that is worth it."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.forecast.sources import MASKS, Job, compare, past_of, scored_views, source_of, statistics_of
from pipeline.scoring.metrics import metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words, score_run
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, digest, lock, read_npy, write_json, write_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, worst, write_receipt
from pipeline.store.runs import Lb, load_run
from pipeline.store.shelves import (
    PREDICTING,
    as_out_of_fold,
    as_parent,
    leaves,
    read_shelf,
    read_stage,
    refuse_strangers,
    refuse_without_pairs,
)
from pipeline.tasks import TASKS, refuse_several

if TYPE_CHECKING:  # they import pandas, scipy or scikit-learn, which a stage with nothing to do must not pay for
    from pipeline.forecast.leaderboard import Forecast
    from pipeline.forecast.postprocess import Output
    from pipeline.forecast.rowscores import RowScores
    from pipeline.forecast.shift import Shift

log = logging.getLogger("pipeline.lb")


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a run whose rows' scores are predicted, post-processed where that passes the gate."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Lb):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make lb')
    refuse_several(competition, files.config, "make lb")
    if TASKS[competition.task].dense:
        refuse_of_rows(files, config)
    if config.mosaic == "fill":
        refuse_to_fill(files, competition)
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        parent = read_stage(config.run, "run", *PREDICTING)
        receipts = {leaf: read_shelf(leaf, "leaf") for leaf in leaves(config.run)}
        refuse_strangers({config.run: parent, **receipts}, facts)
        if TASKS[competition.task].dense and parent["stage"] == "lb":
            told = "is of stage lb, its masks are decided: name the run below it"
            raise UserError(f"{files.config}: {config.run!r} {told}")
        if config.strict:
            if parent["stage"] == "lb":
                told = f"{config.run!r} is of stage lb: name the run below it"
                raise UserError(f"strict = true needs a trained run or a blend, {told}")
            if any(receipt.get("repeats", 1) > 1 for receipt in receipts.values()):
                # A model of another repeat that saw neither fold j nor fold k of its own saw rows of both of repeat 0.
                raise UserError(f"{files.config}: strict = true needs folds.repeats = 1: pair models are of one split")
            refuse_without_pairs("strict = true", receipts)
        key = built_key(config, competition, {config.run: parent})
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.store.table import read_table

            table, task = read_table(files.competition, facts), TASKS[competition.task]
            problem = Problem.of(table, task, metric_of(competition, files.competition))
            refuse_too_many(files, config.neighbours, problem.folds)
            predict_scores(Job(files, config, competition, table, problem, parent, receipts), key)


def refuse_too_many(files: RunFiles, neighbours: int, folds: Array) -> None:
    """Refuse a vote of more neighbours than the rows that a model of these folds (N) learnt."""
    from pipeline.scoring.split import fewest_learnt

    rows = fewest_learnt(folds)
    if neighbours > rows:
        raise UserError(f"{files.config}: neighbours = {neighbours}: a model trains on {rows} rows: lower it")


def refuse_of_rows(files: RunFiles, config: Lb) -> None:
    """Refuse settings that masks have no use for."""
    of_rows = {"strict = true": config.strict, "[capacity]": config.capacity is not None}
    for name, asked in (of_rows | {"neighbours": config.neighbours > 0}).items():
        if asked:
            raise UserError(f"{files.config}: {name} is not for a segmentation task: take it out")


def refuse_to_fill(files: RunFiles, competition: Competition) -> None:
    """Refuse to continue masks from tiles beside where that means nothing, or could not be measured."""
    what = f'{files.config}: mosaic = "fill"'
    if not TASKS[competition.task].dense or competition.masks.exclusive:
        raise UserError(f"{what} is for masks of classes that do not exclude each other: take it out")
    if competition.group is not None and competition.group.mosaic:
        told = "keeps tiles that touch in one fold, whose labels may not speak: nothing would show what it is worth"
        raise UserError(f"{what}: group.mosaic = true in {files.competition.config} {told}; take one of them out")


@dataclass(frozen=True)
class Made:
    """What was predicted, as it lies on the shelf: what the receipt tells of it, the files written, and in words."""

    adopted: str | None
    method: str
    report: dict[str, Any]
    decision: dict[str, Any] | None
    foretold: Forecast
    outputs: list[Path]
    strict: bool
    told: list[str]
    facts: dict[str, Any]


def predict_scores(job: Job, key: str) -> None:
    """Try the rules, predict the rows' scores and the submission's, write the shelf."""
    from pipeline.store.tracking import track

    started, files, config, problem = time.monotonic(), job.files, job.config, job.problem
    made = (predict_masks if problem.task.dense else predict_rows)(job)
    with track(files, "lb", config.model_dump(), key) as tracker:
        tracker.summary({f"cv_{problem.metric.name}": made.report["score"], "cv_se": made.report["se"]})
    ids = job.table.ids[job.table.scored]
    fits = {str(k): digest(*ids[problem.folds != k]) for k in job.parent["folds"]}
    low, high = made.foretold.public[90]
    write_receipt(
        files.receipt,
        stage="lb",
        key=key,
        outputs=[files.oof, files.test, files.scores, files.postprocess, *made.outputs],
        run=files.run,
        config=config.model_dump() | {"decision": made.method},
        **{name: job.parent[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=[as_parent("run", job.parent)],
        level={k: worst("crossfit", level) for k, level in job.parent["level"].items()},
        fits={"predictor": fits, "postprocess": fits},
        strict=made.strict,
        adopted=made.adopted,
        foretold={"predicted": float(np.mean(made.foretold.public[50])), "low": low, "high": high},
        **made.facts,
        decision=made.decision,
        metrics=made.report,
        seconds=round(time.monotonic() - started, 1),
    )
    for line in made.told:
        log.info("%s: %s", files.run, line)


def predict_rows(job: Job) -> Made:
    """Post-process predictions (N P)."""
    from pipeline.forecast import gaps, leaderboard, postprocess, rowscores, shift

    files, config, problem = job.files, job.config, job.problem
    oof, test, method = np.array(read_npy(job.below.oof)), read_npy(job.below.test), job.parent["config"]["decision"]
    # The cuts of these very rows, as `submit` and `audit` take them; those of a blend are fitted on other views.
    source = source_of(job, score_run(problem, oof, method, lambda k: oof)[1])
    view = scored_views(job, source, oof)
    repeats = job.parent.get("repeats", 1)
    models = {k: source.test(as_out_of_fold(config.run, repeats, k), k) for k in job.parent["folds"]}
    whole, each = source.whole(np.array(test), list(models.values())), config.capacity.each if config.capacity else None
    output = postprocess.process(problem, view, models, whole, each, config.seed)
    rows = rowscores.score_rows(problem, view, models, output, config.strict, config.seed)
    method = "fixed" if output.adopted else method
    report, decision = score_run(problem, output.oof, method, lambda k: output.oof)
    moved = compare(job, source.statistics, embedded=True)
    foretold = foretell(job, output, rows, report, decision, moved)
    facts = {"adopted": output.adopted, "by_fold": output.by_fold, "strict": rows.strict, **output.evidence}
    write_scores(job, rows.oof, rows.test, rows.ends, rows.actual)
    lost = gaps.of_leaves(job, moved.likeness, report["score"], foretold)
    facts |= {"gaps": {leaf: asdict(found) for leaf, found in lost.items()}}
    write_evidence(job, facts | {"rows": rows.report}, moved, foretold)
    write_npy(files.oof, output.oof)
    write_npy(files.test, output.test)
    for k, p in output.models.items():
        write_npy(files.fold(k).test, p)
    told = [*rowscores.in_words(rows), *postprocess.in_words(output), in_words(report)]
    told += [*shift.in_words(moved, job.table.ids[job.table.scored]), *leaderboard.in_words(foretold)]
    told += [line for leaf, found in lost.items() for line in gaps.in_words(found, leaf)]
    paths = [files.fold(k).test for k in models]
    return Made(output.adopted, method, report, decision, foretold, paths, rows.strict, told, {})


def predict_masks(job: Job) -> Made:
    """Post-process maps. The models of a fold keep none of their own: an adopted rule is of the run, not of a model."""
    from pipeline.forecast import leaderboard, mask_lb, mask_worth, masks, shift
    from pipeline.scoring.mask_shelf import Scene

    files, problem, table = job.files, job.problem, job.table
    scene = Scene.of(files, job.competition, table, problem.task, problem.metric, job.parent["maps"])
    links = write_links(job) if job.config.mosaic == "fill" else None
    below = mask_lb.Below(scene, job.below, job.parent, job.leaves, links)
    statistics = statistics_of(job, [MASKS, MASKS])
    made = mask_lb.post_process(below, files, statistics, job.submitted)
    moved = compare(job, statistics, embedded=False)
    # What the predictor makes of the mean is taken off: the size match is what is known of it.
    predicted = made.test.predicted[: job.submitted] - made.apparent
    foretold = mask_worth.foretell(
        problem,
        actual=made.actual,
        predicted_oof=made.output.oof.predicted,
        predicted_test=predicted,
        models=len(job.parent["folds"]) * len(table.splits),
        match=made.match,
        **known_of(job, made.report, moved),
    )
    write_scores(job, made.output.oof.predicted, made.test.predicted, made.ends, made.actual)
    write_evidence(job, mask_lb.evidence(made), moved, foretold)
    told = [*masks.in_words(made.output), in_words(made.report)]
    told += [*shift.in_words(moved, table.ids[table.scored]), *leaderboard.in_words(foretold)]
    report, adopted = made.report, made.output.adopted
    paths = [] if links is None else [files.links]
    return Made(adopted, made.method, report, made.decision, foretold, paths, False, told, {"maps": made.shown})


def write_links(job: Job) -> Array:
    """Write which scored and test tiles touch (M 4), and tell how many."""
    from pipeline.competitions.pictures import touching

    found, rows = touching(job.competition.images, job.files.competition.data, job.table.paths[job.rows]), job.rows
    links = np.column_stack([rows[found[:, :2]], found[:, 2:]])
    write_npy(job.files.links, links)
    folds = job.table.folds[links[:, :2]]
    apart = (folds.max(1) >= 0) & (folds[:, 0] != folds[:, 1])
    log.info("%s: %d pairs of tiles touch, %d of them in other folds or test", job.files.run, len(links), apart.sum())
    return links


def foretell(
    job: Job, output: Output, rows: RowScores, report: dict[str, Any], decision: dict[str, Any] | None, moved: Shift
) -> Forecast:
    """Return the forecast of the submission."""
    from pipeline.forecast.leaderboard import forecast

    problem, n = job.problem, job.submitted
    cuts = np.array(decision["cuts"]) if decision else problem.task.default_cuts(problem.classes)
    found = forecast(
        problem,
        contributions=rows.actual,
        models=[p[:n] for p in output.models.values()],
        mean=output.test[:n],
        cuts=cuts,
        predicted_oof=rows.oof,
        predicted_test=rows.test[:n],
        **known_of(job, report, moved),
    )
    return replace(found, models=found.models * len(job.table.splits))


def known_of(job: Job, report: dict[str, Any], moved: Shift) -> dict[str, Any]:
    """Return what a forecast is told of rows and of masks alike."""
    known = {"run": job.files.run, "score": report["score"], "se": report["se"], "past": past_of(job)}
    known |= {"public_share": job.config.public_share, "shift_auc": moved.auc, "shift_p": moved.p}
    return known | {"weight": moved.weight if job.config.shift == "weight" else None, "leaves": list(job.leaves)}


def write_scores(job: Job, oof: Array, test: Array, ends: tuple[Array, Array], actual: Array) -> None:
    """Write the predicted score of every row."""
    import pandas as pd

    columns = {"id": job.table.ids[job.rows], "fold": job.table.folds[job.rows]}
    predicted = {"predicted_score": np.r_[oof, test], "low": ends[0], "high": ends[1]}
    frame = pd.DataFrame(columns | predicted | {"actual": np.r_[actual, np.full(len(test), np.nan)]})
    with atomic(job.files.scores) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def write_evidence(job: Job, facts: dict[str, Any], moved: Shift, foretold: Forecast) -> None:
    """Write what was tried, what was adopted, and the forecast."""
    from pipeline.forecast.shift import most_test_like

    compared = {k: v for k, v in asdict(moved).items() if k not in ("likeness", "weight")}
    compared["most_test_like"] = most_test_like(moved, job.table.ids[job.table.scored])
    write_json(job.files.postprocess, {**facts, "shift": compared, "forecast": asdict(foretold)})


if __name__ == "__main__":
    main(run, __doc__, "run")
