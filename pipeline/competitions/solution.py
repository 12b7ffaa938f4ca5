"""The local leaderboard, where targets are at hand: score a file, and what students gained over their teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.submission import Format
from pipeline.competitions.table_of_images import read_weights
from pipeline.competitions.tables import column, numbers, read_csv, read_ids
from pipeline.competitions.targets import encode
from pipeline.scoring.bootstrap import replicate
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_json, read_npy


@dataclass(frozen=True)
class Solution:
    """Targets of the test rows in the order of the solution: the sample's row of each (N,), and `usage` (N,)."""

    place: Array
    ids: Array
    problem: Problem
    usage: Array


def read_solution(form: Format, metric: Metric, path: Path, groups: dict[str, str]) -> Solution:
    """Read the targets of the test rows, which must be those of the sample, and weights where they stand there.

    `groups` are those of the table of record, by id; a metric that is a mean over groups needs them.
    """
    frame = read_csv(path)
    ids = read_ids(frame, form.config.id, path)
    place = {i: row for row, i in enumerate(form.sample[form.config.id].tolist())}
    odd = sorted(set(ids.tolist()) ^ set(place))
    if odd:
        raise UserError(f"{path} and {form.path} do not have the same ids, for example {odd[0]!r} ({len(odd)} in all)")
    y = truth(form, frame, ids, path)
    usage = column(frame, "Usage", path) if "Usage" in frame.columns else np.full(len(frame), "Private")
    usage = np.char.lower(usage)
    unknown = np.setdiff1d(usage, ["public", "private", "ignored"])
    if len(unknown):
        raise UserError(f"{path}: Usage {str(unknown[0])!r} is none of Public, Private, Ignored")
    weight = None
    if form.config.weight is not None and form.config.weight in frame.columns:
        weight = read_weights(form.config.weight, frame, ids, path)
    blocks = np.array([groups.get(i, "") for i in ids.tolist()]) if metric.grouped else None
    if blocks is not None and (blocks == "").any():
        lost = str(ids[blocks == ""][0])
        raise UserError(f"{path}: id {lost!r} has no group, which metric_per_group needs: give test rows theirs too")
    problem = Problem(form.task, metric, len(form.classes), y, np.zeros(len(y), np.int64), None, weight, blocks)
    return Solution(np.array([place[i] for i in ids.tolist()]), ids, problem, usage)


def truth(form: Format, frame: pd.DataFrame, ids: Array, path: Path) -> Array:
    """Return the targets in the shape of the task, from target columns or from one a class."""
    if form.parts:
        each = [truth(part, frame, ids, path) for part in form.parts]
        return np.column_stack(each).astype(np.float64)
    targets = form.config.target if isinstance(form.config.target, list) else [form.config.target]
    if set(targets) <= set(frame.columns):
        known = form.config.model_copy(update={"classes": form.classes})
        return form.task.targets(encode(known, frame, ids, path)[0])
    cells = numbers(np.column_stack([column(frame, c, path) for c in form.classes]), form.classes, ids, path)
    return np.asarray(cells.argmax(1)) if form.task.name == "multiclass" else form.task.targets(cells)


def leaderboard(form: Format, solution: Solution, submitted: Array) -> dict[str, float]:
    """Score a decoded submission as Kaggle would: {"public": ..., "private": ...}."""
    guess, result = submitted[solution.place], {}
    for name in ("public", "private"):
        rows = solution.usage == name
        if rows.any():
            result[name] = score_submitted(form, solution.problem.part(rows), guess[rows])
    return result


def score_submitted(form: Format, problem: Problem, guess: Array) -> float:
    """Score what a file says: labels count as certain probabilities where the metric wants probabilities."""
    if form.parts or not form.labels:
        return problem.score(guess)
    if not problem.metric.label:
        if form.task.name == "multiclass":
            guess = np.eye(len(form.classes))[guess]
        guess = guess.astype(np.float64)
    return problem.judge(guess)


def student_gains(solution: Solution, ids: Array, student: str) -> dict[str, float]:
    """Return what a student gained over its teacher on the private rows, with paired standard errors; {} if it is none.

    `single` compares the mean score of the K models, `blend` the score of their mean, at untuned cuts; a teacher of
    several runs counts with the mean of its runs. `ids` are the test rows in the order of `test.npy`.
    """
    shelf = read_json(RunFiles(student).receipt)
    named = [parent["run"] for parent in shelf["parents"] if parent.get("role") == "pseudo"]
    rows = solution.usage == "private"
    if not named or not rows.any():
        return {}
    below = read_json(RunFiles(named[0]).receipt)["parents"]
    teachers = [parent["run"] for parent in below if parent["role"] == "teacher"]
    row_of = {i: row for row, i in enumerate(ids.tolist())}
    at = np.array([row_of[i] for i in solution.ids[rows].tolist()])
    problem, folds = solution.problem.part(rows), shelf["folds"]

    def scorer(runs: list[str], single: bool) -> list[Array]:
        shelves = [RunFiles(run) for run in runs]
        paths = [files.fold(k).test for files in shelves for k in folds] if single else [f.test for f in shelves]
        return [np.asarray(read_npy(path))[at] for path in paths]

    found = {}
    for name, single in (("single", True), ("blend", False)):
        new, old = scorer([student], single), scorer(teachers, single)

        def gain(draws: Array, new: list[Array] = new, old: list[Array] = old) -> float:
            better, worse = (np.mean([problem.score(p, None, draws) for p in side]) for side in (new, old))
            return float(problem.metric.gain(float(better), float(worse)))

        found[name] = gain(np.ones(len(at)))
        drawn = replicate([gain], len(at), None, 200)[:, 0]
        found[f"{name}_se"] = float(drawn[np.isfinite(drawn)].std(ddof=1))
    return found
