"""The other end: write the file Kaggle accepts, read it back, and play leaderboard where a solution is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.tables import read_csv, read_ids
from pipeline.competitions.targets import encode
from pipeline.scoring.cells import Cells, best_of, holds_labels, written
from pipeline.scoring.metrics import Metric
from pipeline.scoring.several import Together, pieces_of
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.tasks import Task


@dataclass(frozen=True)
class Format:
    """How a competition wants predictions: the sample's header and ids, and whether cells are labels or values.

    `parts` are the formats of several targets, each of its own columns; `cells` then says only whether any has labels.
    """

    config: Competition
    task: Task
    classes: list[str]
    path: Path
    sample: pd.DataFrame
    cells: Cells
    parts: tuple[Format, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Return the columns of answers."""
        return self.cells.columns

    @property
    def labels(self) -> bool:
        """Say whether cells hold labels."""
        return self.cells.labels


def read_format(config: Competition, task: Task, metric: Metric, classes: list[str], data: Path) -> Format:
    """Read the sample submission and decide what its cells are."""
    path = data / config.submission.sample
    sample = read_csv(path)
    read_ids(sample, config.id, path)
    columns = [str(c) for c in sample.columns if c != config.id]
    if isinstance(metric, Together):
        return format_of_several(config, task, metric, classes, path, sample, columns)
    return format_of(config, task, metric, classes, path, sample, columns)


def format_of_several(
    config: Competition,
    task: Task,
    metric: Together,
    classes: list[str],
    path: Path,
    sample: pd.DataFrame,
    columns: list[str],
) -> Format:
    """Divide the answer columns among several targets: each has those of its own name, or one a class."""
    left, parts = list(columns), []
    named = zip(config.targets or [], config.parts, metric.parts, pieces_of(task), strict=True)
    for target, part, scored, piece in named:
        names = target.bare(classes[piece.names])
        mine = next((own for own in (target.columns, names) if set(own) <= set(left)), None)
        if mine is None:
            raise UserError(f"{path}: columns {columns[:5]} hold neither {target.name!r} nor its classes {names[:5]}")
        left = [name for name in left if name not in mine]
        parts.append(format_of(part, piece.task, scored, names, path, sample, mine))
    if left:
        raise UserError(f"{path}: column {left[0]!r} is none of the targets {[t.name for t in config.targets or []]}")
    cells = Cells(task, columns, classes, classes, any(part.labels for part in parts), 0, " ")
    return Format(config, task, classes, path, sample, cells, tuple(parts))


def format_of(
    config: Competition,
    task: Task,
    metric: Metric,
    classes: list[str],
    path: Path,
    sample: pd.DataFrame,
    columns: list[str],
) -> Format:
    """Decide what the cells of answer columns are."""
    wide = len(columns) > 1
    if wide and sorted(columns) != sorted(classes):
        raise UserError(
            f"{path}: columns {columns[:5]} are not the classes {classes[:5]} of {config.train}: names must agree"
        )
    if not columns or (not wide and task.name == "regression" and len(classes) > 1):
        raise UserError(f"{path}: columns {columns} do not hold the targets {classes[:5]}")
    if wide and task.name == "ordinal":
        raise UserError(f"{path}: an ordinal task fills one column of grades, not one a class")
    best, separator = best_of(config, metric.name), config.separator or " "
    if best and (wide or any(separator in name for name in classes)):
        raise UserError(f"{path}: the {best} best labels of a row stand in one cell, joined by {separator!r}")
    labels = holds_labels(config, columns, metric.label, best, str(path))
    if not labels:
        task.refuse_grades(classes, "a submission of values")
    names = written(classes, sample[columns[0]].tolist())
    return Format(config, task, classes, path, sample, Cells(task, columns, classes, names, labels, best, separator))


def fill(form: Format, ids: Array, prediction: Array, labels: Array) -> pd.DataFrame:
    """Fill the sample: predictions (N P) or decided labels of the test rows `ids`, in the sample's order."""
    wanted = form.sample[form.config.id].to_numpy(str)
    place = {i: row for row, i in enumerate(ids.tolist())}
    missing = [i for i in wanted.tolist() if i not in place]
    if missing:
        raise UserError(
            f"{form.path}: id {missing[0]!r} has no prediction ({len(missing)} in all): run make folds again"
        )
    rows = np.array([place[i] for i in wanted.tolist()], int)
    prediction, labels = prediction[rows], labels[rows]
    if not form.parts:
        return form.sample.assign(**form.cells.fill(prediction, labels))
    filled = form.sample
    for part, piece in zip(form.parts, pieces_of(form.task), strict=True):
        filled = filled.assign(**part.cells.fill(prediction[:, piece.p], piece.of(labels)))
    return filled


def read_back(form: Format, file: Path, path: Path) -> Array:
    """Read a submission as Kaggle would and refuse what Kaggle would; return predictions (N P) or labels.

    `file` is what is read, `path` what it will be called.
    """
    frame = read_csv(file)
    if list(frame.columns) != list(form.sample.columns):
        raise UserError(f"{path}: header {list(frame.columns)} is not the sample's {list(form.sample.columns)}")
    ids, wanted = frame[form.config.id].to_numpy(str), form.sample[form.config.id].to_numpy(str)
    if len(ids) != len(wanted) or (ids != wanted).any():
        at = next((i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted)))
        raise UserError(
            f"{path}: row {at + 2} does not have the id of the sample's row: keep the sample's ids and order"
        )
    return decode(form, frame, path)


def decode(form: Format, frame: pd.DataFrame, path: Path) -> Array:
    """Turn cells back into labels (as `Task.decide` gives them) or predictions (N P), of several targets the latter."""
    if form.parts:
        return np.column_stack([as_prediction(part, decode(part, frame, path)) for part in form.parts])
    ids = frame[form.config.id].to_numpy(str)
    cells = form.cells
    if cells.best:
        return ranked(form, frame[form.columns[0]].tolist(), ids, path)
    if form.labels and len(form.columns) == 1:
        single = {"target": form.columns[0], "classes": cells.written, "soft": False, "unknown": "refuse"}
        known = form.config.model_copy(update={**single, "separator": cells.separator if cells.joined else None})
        return form.task.targets(encode(known, frame, ids, path)[0])
    ordered = form.classes if len(form.columns) > 1 else form.columns
    values = np.column_stack([pd.to_numeric(frame[name], errors="coerce").to_numpy(float) for name in ordered])
    wrong = ~np.isfinite(values).all(1)
    if wrong.any():
        raise UserError(f"{path}: id {str(ids[wrong][0])!r} has no finite number: a model predicted NaN or infinity")
    if form.labels:
        return values.astype(np.int64) if form.task.name == "multilabel" else values.argmax(1)
    if form.task.probabilities and ((values < 0) | (values > 1)).any():
        raise UserError(
            f"{path}: id {str(ids[((values < 0) | (values > 1)).any(1)][0])!r} has a probability outside 0..1"
        )
    if form.task.name == "multiclass":
        off = np.abs(values.sum(1) - 1) > 1e-3
        if off.any():
            raise UserError(
                f"{path}: id {str(ids[off][0])!r} has probabilities that sum to {values[off][0].sum():.4f}, not 1"
            )
    return values[:, -1:] if form.task.name == "binary" else values


def as_prediction(form: Format, said: Array) -> Array:
    """Return what a file says as predictions (N P): labels are certain probabilities, or values."""
    if form.labels and form.task.name == "multiclass":
        return np.eye(len(form.classes))[said]
    return said.astype(np.float64).reshape(len(said), -1)


def ranked(form: Format, cells: list[str], ids: Array, path: Path) -> Array:
    """Turn cells of the likeliest labels into predictions (N C) of the same order."""
    known = set(form.cells.written)
    for i, cell in zip(ids.tolist(), cells, strict=True):
        said = cell.split(form.cells.separator)
        odd = [label for label in said if label not in known]
        if odd or len(set(said)) < len(said) or len(said) > form.cells.best:
            what = f"the label {odd[0]!r}, not among the classes" if odd else f"{cell!r}"
            raise UserError(f"{path}: id {i!r} has {what}: {form.cells.best} different labels at most, best first")
    return form.cells.ranked(cells)
