"""Tag rows easy, ambiguous, hard or suspect: whose label may be wrong, where the run errs; to read and to train by."""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import atomic, digest, lock, read_npy
from pipeline.store.keys import built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, worst, write_receipt
from pipeline.store.runs import Tag, load_run
from pipeline.store.shelves import (
    PREDICTING,
    as_parent,
    leaves,
    read_shelf,
    read_stage,
    refuse_strangers,
    refuse_without_pairs,
)
from pipeline.tasks import TASKS, refuse_several

if TYPE_CHECKING:  # they import pandas, scipy and OpenCV, which a stage with nothing to do must not pay for
    import pandas as pd

    from pipeline.difficulty.difficulty import Difficulty
    from pipeline.difficulty.known import Case
    from pipeline.difficulty.tags import Report, Seen

log = logging.getLogger("pipeline.tag")


def run(args: argparse.Namespace) -> None:
    """Leave the difficulty report and the training tags of a run."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Tag):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make tag')
    refuse_several(competition, files.config, "make tag")
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        dense = TASKS[competition.task].dense
        shelf = read_stage(config.run, "run", *(("train", "ensemble") if dense else PREDICTING))
        members = {leaf: read_shelf(leaf) for leaf in leaves(config.run)}
        refuse_strangers({config.run: shelf, **members}, facts)
        if config.strict and dense:
            raise UserError(f"{files.config}: strict = true is of tags for training, which masks have none of")
        if config.strict:
            refuse_without_pairs(f"{files.config}: strict = true", members)
        key = built_key(config, competition, {config.run: shelf})
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.difficulty.known import Case
            from pipeline.scoring.problem import Problem
            from pipeline.store.table import read_table

            task, table = TASKS[competition.task], read_table(files.competition, facts)
            problem = Problem.of(table, task, metric_of(competition, files.competition))
            if not dense and np.isnan(problem.y).any():
                raise UserError(f'{files.config}: tags are of rows whose labels are all known, not of unknown = "mask"')
            # Soft labels are tagged by what is likeliest.
            problem = replace(problem, y=problem.hard)
            case = Case(RunFiles(config.run), competition, table, problem, shelf, members)
            tag(files, config, case, key)


@dataclass(frozen=True)
class Made:
    """What is found out: numbers for the receipt, how errors are foreseen, the files that hold the rest."""

    metrics: dict[str, Any]
    foreseen: Difficulty
    outputs: list[Path]


def tag(files: RunFiles, config: Tag, case: Case, key: str) -> None:
    """Tag all rows, write tables and contact sheets, the receipt last."""
    from pipeline.store.tracking import track

    started, dense = time.monotonic(), case.problem.task.dense
    made = (tag_masks if dense else tag_rows)(files, config, case)
    metrics, foreseen = made.metrics, made.foreseen
    with track(files, "tag", config.model_dump(), key) as tracker:
        tracker.summary({"auroc_p_error": metrics["score"], "suspects": metrics["labels"]["suspects"]})
    levels = {k: worst(*(r["level"][k] for r in case.members.values())) for k in case.shelf["level"]}
    report_levels = {k: worst("crossfit", level) for k, level in case.shelf["level"].items()}
    scored, folds = case.table.ids[case.table.scored], case.problem.folds
    others = {k: digest(*scored[folds != k]) for k in case.folds}
    write_receipt(
        files.receipt,
        stage="tag",
        key=key,
        outputs=made.outputs,
        run=files.run,
        config=config.model_dump(),
        **{name: case.shelf[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=[as_parent("run", case.shelf), *(as_parent("leaf", r) for r in case.members.values())],
        # Of difficulty_train.csv, which models are trained by; the report is of cross-fitted numbers at best.
        level=report_levels if dense else levels,
        source="pairs" if config.strict else "epochs",
        report_level=report_levels,
        fits={"p_label_wrong": others, "p_error": others, "cuts": others},
        learners=foreseen.learners,
        cuts=asdict(foreseen.cuts),
        cuts_by_fold={k: asdict(cuts) for k, cuts in foreseen.by_fold.items()},
        decision=None,
        metrics=metrics,
        seconds=round(time.monotonic() - started, 1),
    )
    tell(files, metrics)


def tag_rows(files: RunFiles, config: Tag, case: Case) -> Made:
    """Tag rows of predictions (N P)."""
    from pipeline.difficulty.known import gather
    from pipeline.difficulty.labels import belief
    from pipeline.difficulty.risk import risk
    from pipeline.difficulty.tags import assess, counts

    n, seen = len(case.problem.y), gather(case, config.neighbours)
    report = assess(seen, config.easy_error, config.hard_share)
    metrics = risk(case.problem, report.p_error[:n], report.wrong, belief(report.label_wrong), report.tags[:n])
    metrics |= counts(seen, report)
    metrics["near_ties"] = near_ties(case, config.near_tie, seen, report)
    write_csv(files.difficulty, difficulty(case, report))
    write_csv(files.difficulty_train, training_tags(case, config, seen))
    write_csv(files.review, review(case, seen, report))
    sheets = write_sheets(files, config.sheet, case, seen, report)
    return Made(metrics, report.difficulty, [files.difficulty, files.difficulty_train, files.review, *sheets])


def tag_masks(files: RunFiles, config: Tag, case: Case) -> Made:
    """Tag images by their masks: for a person to read, as no model says blindly what it thinks of what it learnt."""
    from pipeline.difficulty.mask_report import MaskReport
    from pipeline.difficulty.sheet import write_sheet

    report = MaskReport.of(case, config.easy_error, config.hard_share)
    write_csv(files.difficulty, report.difficulty())
    write_csv(files.review, report.review())
    sheets = {files.sheet(name): shown for name, shown in report.sheets(config.sheet).items()}
    for path, (images, captions) in sheets.items():
        write_sheet(path, images, captions)
    return Made(report.metrics, report.tags.difficulty, [files.difficulty, files.review, *sheets])


def near_ties(case: Case, limit: float, seen: Seen, report: Report) -> dict[str, Any]:
    """Return the near-tie analysis: shares; for classes also what separates them, and whether a rule helps."""
    from pipeline.difficulty.known import readers
    from pipeline.difficulty.ties import margin, pairs, rules, shares

    near = margin(case.problem.task, seen.oof) < limit
    found: dict[str, Any] = {"limit": limit, **shares(near, report.wrong)}
    if case.problem.task.name == "multiclass":
        names, told = case.table.classes, pairs(case.problem, seen.oof, near, readers(case))
        found["pairs"] = [entry | {"pair": [names[c] for c in entry["pair"]]} for entry in told]
        found["rules"] = rules(case.problem, seen.oof, limit)
    return found


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def difficulty(case: Case, report: Report) -> pd.DataFrame:
    """Return the report on all rows: what of a label there is to say is empty for test rows."""
    import pandas as pd

    rest = np.full(len(case.table.test), np.nan)
    frame = pd.DataFrame({"id": case.table.ids[case.rows], "p_label_wrong": np.r_[report.label_wrong, rest]})
    frame["p_error"], frame["tag"] = report.p_error, report.tags
    frame["fold"] = case.table.folds[case.rows]
    frame["wrong"] = np.r_[report.wrong.astype(float), rest]
    for name, values in report.evidence.items():
        frame[name] = np.r_[values, rest]
    return frame.assign(**report.features)


def training_tags(case: Case, config: Tag, seen: Seen) -> pd.DataFrame:
    """Return the tags that training may use: for each fold of the other rows and the test rows, blind to it."""
    import pandas as pd

    from pipeline.difficulty.known import within
    from pipeline.difficulty.tags import blind

    ids, frames = case.table.ids[case.rows], []
    repeats = [within(case, seen, r, config.strict) for r in range(len(case.table.splits))]
    for (r, mine), k in itertools.product(enumerate(repeats), case.folds):
        found = blind(mine, k, config.easy_error, config.hard_share)
        frame = pd.DataFrame({"id": ids, "repeat": r, "fold": k, "weight": found.weight, "tag": found.tags})
        frame["difficulty"] = found.difficulty
        targets = np.concatenate([found.targets, np.full((len(case.table.test), found.targets.shape[1]), np.nan)])
        frame[[f"t{c}" for c in range(targets.shape[1])]] = targets
        frames.append(frame[np.r_[mine.problem.folds != k, np.ones(len(case.table.test), bool)]])
    return pd.concat(frames)


def review(case: Case, seen: Seen, report: Report) -> pd.DataFrame:
    """Return the scored rows for a person to look at: suspects first, the most suspicious first."""
    import pandas as pd

    table, rows = case.table, case.table.scored
    frame = pd.DataFrame({"id": table.ids[rows]})
    frame["path"] = [str(case.run.competition.data / path) for path in table.paths[rows]]
    frame["label"], frame["predicted"] = case.say(seen.problem.y), case.say(seen.labels)
    frame["p_label_wrong"], frame["tag"] = report.label_wrong, report.tags[: len(rows)]
    return frame.iloc[np.lexsort((-report.label_wrong, frame["tag"] != "suspect"))]


def write_sheets(files: RunFiles, size: int, case: Case, seen: Seen, report: Report) -> list[Path]:
    """Write contact sheets of the suspects, most suspicious first, and of the hard rows, hardest first."""
    from pipeline.difficulty.sheet import write_sheet

    n, (images, test_images) = len(seen.oof), case.images
    given, said = case.say(seen.problem.y), case.say(seen.labels)
    on_test = case.say(case.decide(np.asarray(read_npy(case.run.test)), None))
    paths = []
    for name, tag, score, rows in (
        ("suspects", "suspect", report.label_wrong, slice(0, n)),
        ("hard_train", "hard", report.p_error[:n], slice(0, n)),
        ("hard_test", "hard", report.p_error[n:], slice(n, None)),
    ):
        found = np.flatnonzero(report.tags[rows] == tag)
        found = found[np.argsort(-score[found], kind="stable")][:size]
        test = name == "hard_test"
        captions = [
            [f"is {on_test[i]}?", f"p {score[i]:.2f}"] if test else [given[i], f"is {said[i]}?", f"p {score[i]:.2f}"]
            for i in found
        ]
        paths.append(files.sheet(name))
        write_sheet(paths[-1], [(test_images if test else images)[i] for i in found], captions)
    return paths


def tell(files: RunFiles, metrics: dict[str, Any]) -> None:
    """Say the findings in a few lines."""
    given, labels, shares = (metrics[name] for name in ("given", "labels", "shares"))
    if math.isnan(metrics["score"]):
        log.info("%s: no error among %d rows whose labels are believed: nothing to foresee", files.run, metrics["n"])
    else:
        area = f"auroc of p_error {metrics['score']:.4f} +- {metrics['se']:.4f} (se, n={metrics['n']})"
        log.info("%s: %s; by all labels as given %.4f +- %.4f", files.run, area, given["score"], given["se"])
    for name, found in metrics["tags"].items():
        of = f"{shares['train'][name]:6.1%} of train, {shares['test'][name]:6.1%} of test"
        known = f"error {found['score']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
        error = "no believed label" if math.isnan(found["score"]) else known
        log.info("%s: %-9s %s; %s", files.run, name, of, error)
    wrong = f"about {labels['estimated']:.0f} labels wrong by estimate"
    log.info("%s: %d suspects, %s; look at %s", files.run, labels["suspects"], wrong, files.review)
    if (ties := metrics.get("near_ties")) is not None:
        log.info("%s: %.1f%% of rows near-tied: %.0f%% of errors", files.run, 100 * ties["rows"], 100 * ties["errors"])


if __name__ == "__main__":
    main(run, __doc__, "run")
