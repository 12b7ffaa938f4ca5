"""A competition's own metric in Kaggle's form: a file with `score(solution, submission, row_id_column_name) -> float`.

It is given two frames in the columns of the sample submission, row for row, as Kaggle reads them from CSV. Their ids
are 0, 1, ...: a row that a bootstrap draws twice stands there twice. Sample weights it does not know.
"""

from __future__ import annotations

import csv
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.cells import Cells, holds_labels, written
from pipeline.scoring.metrics import Metric
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_json
from pipeline.tasks import TASKS

if TYPE_CHECKING:  # a stage with nothing to do must not pay for pandas
    import pandas as pd


def from_file(config: Competition, files: CompetitionFiles) -> Metric:
    """Return the metric of a contract that names a file; the file is run when something is scored."""
    path = Path(config.metric)
    if not path.is_file():
        raise UserError(f"{files.config}: metric {path} does not exist: put the competition's metric file there")
    assert config.metric_greater is not None
    sample = files.data / config.submission.sample
    columns, cells = read_sample(sample, config.id)
    labels = wants_labels(config, columns, files)

    @cache
    def form() -> Cells:
        classes = read_json(files.table_receipt)["classes"]
        if len(columns) > 1 and sorted(columns) != sorted(classes):
            raise UserError(f"{sample}: columns {columns[:5]} are not the classes {classes[:5]}: names must agree")
        names, separator = written(classes, cells), config.separator or " "
        return Cells(TASKS[config.task], columns, classes, names, labels, config.submission.best, separator)

    @cache
    def score() -> Callable[..., Any]:
        return load(path)

    def function(y: Array, guess: Array, weight: Array) -> float:
        # Whole weights are the counts themselves; of others each row comes as often as its share of the sum says.
        times = np.diff(np.floor(np.r_[0.0, np.cumsum(weight)] + 0.5)).astype(np.int64)
        rows, made = np.repeat(np.arange(len(y)), times), form()
        if not len(rows):
            return float("nan")
        wide = guess[rows].reshape(len(rows), -1)
        said = made.fill(wide, guess[rows] if labels else wide)
        return call(score(), path, made.truth(y[rows]), said, config.id, strict=bool((times == 1).all()))

    return Metric(path.name, function, labels, config.metric_greater, (config.task,), draws=True)


def read_sample(path: Path, row_id: str) -> tuple[list[str], list[str]]:
    """Return the answer columns of the sample submission, and the cells of the first."""
    if not path.exists():
        raise UserError(f"{path} does not exist: a metric file scores what has the columns of the sample")
    with open(path, newline="", encoding="utf-8-sig") as handle:
        header, *rows = [*csv.reader(handle)] or [[]]
    if row_id not in header or len(header) < 2:
        raise UserError(f"{path} has columns {header[:5]}: it needs {row_id!r} and one to answer")
    columns = [name for name in header if name != row_id]
    at = header.index(columns[0])
    return columns, [row[at] for row in rows if len(row) > at]


def wants_labels(config: Competition, columns: list[str], files: CompetitionFiles) -> bool:
    """Say whether a file's submission holds labels; where either could stand there the contract has to say it."""
    joined = len(columns) == 1 and config.task == "multilabel"
    if config.submission.format == "auto" and TASKS[config.task].cuts and not joined:
        what = f"{files.config}: what metric {config.metric} scores of a {config.task} task cannot be guessed"
        raise UserError(f'{what}: set format = "label" or "value" in [submission]')
    return holds_labels(config, columns, True, config.submission.best, str(files.data / config.submission.sample))


def load(path: Path) -> Callable[..., Any]:
    """Run a metric file and return its `score`."""
    module = types.ModuleType(f"metric_of_{path.parent.name}")
    sys.modules[module.__name__] = module  # where a dataclass of the file looks for its own annotations
    try:
        # Not imported: that would leave bytecode among the configs.
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    except Exception as error:
        raise UserError(f"{path} cannot be run: {type(error).__name__}: {_line(error)}") from error
    found: Callable[..., Any] | None = getattr(module, "score", None)
    if not callable(found):
        raise UserError(f"{path} has no function score(solution, submission, row_id_column_name)")
    return found


def call(
    score: Callable[..., Any],
    path: Path,
    solution: dict[str, Array],
    submission: dict[str, Array],
    row_id: str,
    strict: bool,
) -> float:
    """Return what `score` says; without `strict` (some rows are left out or drawn twice) NaN where it fails.

    A resample may lack a class, without which there may be no score; of all rows a failure is the user's to know.
    """
    try:
        value = score(_frame(solution, row_id), _frame(submission, row_id), row_id)
    except Exception as error:
        if not strict:
            return float("nan")
        raise UserError(f"{path}: score() raised {type(error).__name__}: {_line(error)}") from error
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
    if strict and not number:
        raise UserError(f"{path}: score() returned {value!r}: it must return a finite number")
    return float(value) if number else float("nan")


def _frame(columns: dict[str, Array], row_id: str) -> pd.DataFrame:
    """Return a frame as Kaggle reads it from CSV: labels that are numbers are numbers, an empty cell is missing."""
    import pandas as pd

    ids = np.arange(len(next(iter(columns.values()))))
    return pd.DataFrame({row_id: ids} | {name: _typed(cells) for name, cells in columns.items()})


def _typed(cells: Array) -> Array:
    if cells.dtype.kind == "O":
        return np.array([cell or np.nan for cell in cells], object)
    if cells.dtype.kind != "U":
        return cells
    for kind in (np.int64, np.float64):
        with suppress(ValueError):
            return cells.astype(kind)
    return cells.astype(object)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or "(no message)"
