"""Predict the score of every row and of the submission, and post-process where that is worth it."""

from __future__ import annotations

import argparse
import functools
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.metrics import metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words, score_run
from pipeline.store import ledger
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, digest, lock, read_npy, write_json, write_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, worst, write_receipt
from pipeline.store.runs import Capacity, Lb, load_run
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
    from pipeline.forecast.candidates import View
    from pipeline.forecast.leaderboard import Forecast, Submission
    from pipeline.forecast.postprocess import Output
    from pipeline.forecast.rowscores import RowScores
    from pipeline.forecast.shift import Shift
    from pipeline.forecast.views import Seen, Source
    from pipeline.store.table import Table

log = logging.getLogger("pipeline.lb")
# The nearest of so many training rows, evenly chosen, say how far a row lies from what a model knows.
NEIGHBOURS, REFERENCES = 10, 20_000
# The side of images, in pixels, of which statistics are taken where there are masks.
MASKS = 64


@dataclass(frozen=True)
class Job:
    """What the stage works on: its run, the run that it builds on (`parent`) and the trained runs below (`leaves`)."""

    files: RunFiles
    config: Lb
    competition: Competition
    table: Table
    problem: Problem
    parent: dict[str, Any]
    leaves: dict[str, dict[str, Any]]

    @property
    def rows(self) -> Array:
        """Return the table positions of all rows: the scored ones, then the test rows."""
        return np.concatenate([self.table.scored, self.table.test])

    @property
    def submitted(self) -> int:
        """Return how many test rows the submission has; they come first."""
        from pipeline.store.table import TEST

        return int((self.table.folds == TEST).sum())

    @property
    def below(self) -> RunFiles:
        """Return the shelf of the run that is built on."""
        return RunFiles(self.config.run)


def run(args: argparse.Namespace) -> None:
    """Leave the shelf of a run whose rows' scores are predicted, post-processed where that passes the gate."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Lb):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make lb')
    refuse_several(competition, files.config, "make lb")
    if TASKS[competition.task].dense:
        refuse_of_rows(files, config)
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
            predict_scores(Job(files, config, competition, table, problem, parent, receipts), key)


def refuse_of_rows(files: RunFiles, config: Lb) -> None:
    """Refuse settings that masks have no use for."""
    for name, asked in {"strict = true": config.strict, "[capacity]": config.capacity is not None}.items():
        if asked:
            raise UserError(f"{files.config}: {name} is not for a segmentation task: take it out")


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
    from pipeline.forecast import leaderboard, postprocess, rowscores, shift

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
    write_evidence(job, facts | {"rows": rows.report}, moved, foretold)
    write_npy(files.oof, output.oof)
    write_npy(files.test, output.test)
    for k, p in output.models.items():
        write_npy(files.fold(k).test, p)
    told = [*rowscores.in_words(rows), *postprocess.in_words(output), in_words(report)]
    told += [*shift.in_words(moved), *leaderboard.in_words(foretold)]
    paths = [files.fold(k).test for k in models]
    return Made(output.adopted, method, report, decision, foretold, paths, rows.strict, told, {})


def predict_masks(job: Job) -> Made:
    """Post-process maps. The models of a fold keep none of their own: an adopted rule is of the run, not of a model."""
    from pipeline.forecast import leaderboard, mask_lb, shift
    from pipeline.scoring.mask_shelf import Scene

    files, problem, table = job.files, job.problem, job.table
    scene = Scene.of(files, job.competition, table, problem.task, problem.metric, job.parent["maps"])
    below, statistics = mask_lb.Below(scene, job.below, job.parent, job.leaves), statistics_of(job, [MASKS, MASKS])
    made = mask_lb.post_process(below, files, statistics, job.submitted)
    moved = compare(job, statistics, embedded=False)
    # What the predictor makes of the mean is taken off: the size match is what is known of it.
    predicted = made.test.predicted[: job.submitted] - made.apparent
    foretold = leaderboard.forecast(
        problem,
        run=files.run,
        score=made.report["score"],
        se=made.report["se"],
        contributions=made.actual,
        models=[predicted[:, None]] * len(job.parent["folds"]),
        mean=predicted[:, None],
        cuts=np.zeros(0),
        predicted_oof=made.output.oof.predicted,
        predicted_test=predicted,
        public_share=job.config.public_share,
        shift_auc=moved.auc,
        shift_p=moved.p,
        weight=moved.weight if job.config.shift == "weight" else None,
        leaves=list(job.leaves),
        past=past_of(job),
        match=made.match,
    )
    foretold = replace(foretold, models=foretold.models * len(table.splits))
    write_scores(job, made.output.oof.predicted, made.test.predicted, made.ends, made.actual)
    write_evidence(job, mask_lb.evidence(made), moved, foretold)
    told = [*mask_lb.in_words(made.output), in_words(made.report)]
    told += [*shift.in_words(moved), *leaderboard.in_words(foretold)]
    report, adopted = made.report, made.output.adopted
    return Made(adopted, made.method, report, made.decision, foretold, [], False, told, {"maps": made.shown})


def statistics_of(job: Job, size: list[int]) -> Array:
    """Return statistics (N S) of the images of all rows, seen at a size."""
    from pipeline.scoring.features import image_statistics
    from pipeline.training.images import cached

    def of(rows: Array) -> Array:
        table, competition = job.table, job.files.competition
        return image_statistics(
            cached(competition, table.paths[rows], table.digests[rows], job.competition.images, size)[0]
        )

    return np.concatenate([of(job.table.scored), of(job.table.test)])


def source_of(job: Job, decision: dict[str, Any] | None) -> Source:
    """Return where the views of the rows come from."""
    from pipeline.forecast.views import Source

    size = next(iter(job.leaves.values()))["config"]["image"]["size"]
    return Source(
        problem=job.problem,
        decision=decision,
        leaves={leaf: receipt["decision"] for leaf, receipt in job.leaves.items()},
        seen=functools.cache(functools.partial(read_model, job)),
        statistics=statistics_of(job, [size, size] if isinstance(size, int) else size),
        blocks=blocks_of(job.config.capacity or Capacity(), job.table, job.rows),
    )


def read_model(job: Job, leaf: str, held_out: tuple[int, ...]) -> Seen:
    """Read what a model of a leaf says of the rows that it did not train on: with repeats, and those like it."""
    from pipeline.forecast.views import Seen

    files = RunFiles(leaf)
    if len(held_out) == 1:
        model, repeats = files.fold(*held_out), job.leaves[leaf].get("repeats", 1)
        p = np.concatenate([read_npy(files.oof), as_out_of_fold(leaf, repeats, *held_out)])
    else:
        model = files.pair(*held_out)
        p = np.concatenate([read_npy(model.train), read_npy(model.test)])
    foreign = np.isin(job.problem.folds, held_out)
    return Seen(p, np.nan_to_num(read_npy(model.spread)), distances(model, job.table.ids[job.rows], foreign))


def distances(model: FoldFiles, ids: Array, foreign: Array) -> Array:
    """Return the mean distance (all rows) to the nearest training rows inside a model; 0 for those it trained on.

    `foreign` (N_s,): the scored rows that it did not train on.
    """
    from pipeline.scoring.features import in_model
    from pipeline.store.table import half_of

    out, mine = np.zeros(len(ids)), np.r_[foreign, np.ones(len(ids) - len(foreign), bool)]
    known = np.flatnonzero(~foreign)
    known = known[np.linspace(0, len(known) - 1, min(len(known), REFERENCES)).astype(int)]
    # Of two students a row is predicted by the one that did not train on its half.
    whole = model.embeddings.exists()
    parts = [(model, mine)] if whole else [(model.half(1 - h), mine & (half_of(ids) == h)) for h in (0, 1)]
    for source, rows in parts:
        if rows.any():
            embeddings = read_npy(source.embeddings)
            out[rows] = in_model(embeddings[rows], embeddings[known], NEIGHBOURS)[0]
    return out


def blocks_of(capacity: Capacity, table: Table, rows: Array) -> Array:
    """Return the group of rows within which a class has a capacity ("" for none)."""
    if capacity.pattern is None:
        return np.asarray(table.groups[rows])
    try:
        pattern = re.compile(capacity.pattern)
    except re.error as error:
        raise UserError(f"capacity.pattern {capacity.pattern!r} is not a regular expression: {error}") from error
    found = [pattern.search(str(i)) for i in table.ids[rows]]
    if None in found:
        lost = str(table.ids[rows][found.index(None)])
        raise UserError(f"capacity.pattern {capacity.pattern!r} does not match id {lost!r}: mend it")
    return np.array([m.group(1 if pattern.groups else 0) for m in found if m is not None])


def scored_views(job: Job, source: Source, oof: Array) -> Callable[[int | None], View]:
    """Return the scored rows as fold k may see them: by their own fold's models, in strict mode by pair models."""
    plain = source.scored(lambda below: oof)
    if not job.config.strict:
        return lambda k: plain
    from pipeline.scoring.blend import compose

    def composed(k: int, below: dict[str, Array]) -> Array:
        def weights(receipt: dict[str, Any]) -> Array:
            return np.array(receipt["weights_by_fold"][str(k)])

        return compose(job.problem.task, job.config.run, weights, below, job.problem.folds)

    strict = {k: source.scored(functools.partial(composed, k), k) for k in job.parent["folds"]}
    return lambda k: plain if k is None else strict[k]


def compare(job: Job, statistics: Array, embedded: bool) -> Shift:
    """Return how far the test rows are from the scored ones, `embedded`: inside the models of the first leaf."""
    from pipeline.forecast.shift import adversarial
    from pipeline.scoring.features import statistic_names

    table, folds, leaf = job.table, job.problem.folds, RunFiles(next(iter(job.leaves)))
    end = len(folds) + job.submitted
    shelves = [leaf.fold(k).embeddings for k in job.parent["folds"]]
    embedded &= all(path.exists() for path in shelves)
    embeddings = [read_npy(path)[:end] for path in shelves] if embedded else None
    units = None if job.problem.group is None else table.units[job.rows][:end]
    names = statistic_names(job.competition.images.width * job.competition.images.views)
    return adversarial(embeddings, folds, statistics[:end], names, units, job.config.seed)


def foretell(
    job: Job, output: Output, rows: RowScores, report: dict[str, Any], decision: dict[str, Any] | None, moved: Shift
) -> Forecast:
    """Return the forecast of the submission."""
    from pipeline.forecast.leaderboard import forecast

    problem, n = job.problem, job.submitted
    cuts = np.array(decision["cuts"]) if decision else problem.task.default_cuts(problem.classes)
    found = forecast(
        problem,
        run=job.files.run,
        score=report["score"],
        se=report["se"],
        contributions=rows.actual,
        models=[p[:n] for p in output.models.values()],
        mean=output.test[:n],
        cuts=cuts,
        public_share=job.config.public_share,
        shift_auc=moved.auc,
        shift_p=moved.p,
        predicted_oof=rows.oof,
        predicted_test=rows.test[:n],
        weight=moved.weight if job.config.shift == "weight" else None,
        leaves=list(job.leaves),
        past=past_of(job),
    )
    return replace(found, models=found.models * len(job.table.splits))


def past_of(job: Job) -> list[Submission]:
    """Return earlier submissions of the same competition, metric and fold map; their private scores stay unread."""
    from pipeline.forecast.leaderboard import Submission

    def families(name: str) -> tuple[str, ...]:
        try:
            return tuple(leaves(name))
        except UserError:
            return (name,)  # its shelf is gone

    prefix, metric = f"{job.files.competition.name}/", job.problem.metric.name
    rows = [row for row in ledger.read() if row.run.startswith(prefix) and row.run != job.files.run]
    same = [row for row in rows if (row.metric, row.fold_map) == (metric, job.parent["fold_map"])]
    return [Submission(row.run, row.cv, row.public, families(row.run)) for row in same]


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
    test_like = {k: v for k, v in asdict(moved).items() if k not in ("likeness", "weight")}
    write_json(job.files.postprocess, {**facts, "shift": test_like, "forecast": asdict(foretold)})


if __name__ == "__main__":
    main(run, __doc__, "run")
