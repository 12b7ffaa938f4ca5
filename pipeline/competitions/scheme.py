"""How the labelled rows are divided: by the contract's scheme, by hand, or as they were the last time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competitions.table_of_images import Raw
from pipeline.competitions.tables import column, read_csv, read_train
from pipeline.scoring.split import assign, draw_holdout, draw_test_like
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_file, read_json
from pipeline.store.folds import Folds
from pipeline.store.table import HOLDOUT
from pipeline.tasks import Several, Task

EDITED = ", edited by hand"


def stratum_names(task: Task, y: Array, classes: list[str], bins: int) -> list[str]:
    """Return the names of the columns of `Task.strata`."""
    if isinstance(task, Several):
        own = [(p.name, stratum_names(p.task, p.of(y), classes[p.names], bins)) for p in task.pieces]
        return [name if name in classes else f"{target} {name}" for target, names in own for name in names]
    if task.name == "multilabel":
        return [*classes, "(no label)"]
    if task.name == "regression":
        return [f"bin {s}" for s in range(min(bins, len(y)))]
    if task.name == "segmentation":
        empty, count = bool((y.sum(1) == 0).any()), task.strata(y, bins).shape[1]
        return [*["(empty)"][:empty], *(f"size {s}" for s in range(1, count + 1 - empty))]
    return [classes[v] for v in np.unique(y)]


def choose_method(config: Competition, grouped: bool) -> str:
    """Return the scheme that `auto` stands for."""
    folds, labels = config.folds, config.task in ("multilabel", "several")
    if folds.column is not None:
        return "predefined"
    if folds.order is not None:
        return "time"
    if folds.method == "auto":
        return "stratified-group" if grouped else "multilabel" if labels else "stratified"
    if folds.method in ("group", "stratified-group") and not grouped:
        raise UserError(f'folds.method = "{folds.method}" needs a [group] section: say which rows belong together')
    if folds.method in ("multilabel", "iterative") and not labels:
        raise UserError(f'folds.method = "{folds.method}" does not fit a {config.task} task; use "stratified"')
    return folds.method


def split(
    config: Competition, raw: Raw, strata: Array, units: Array, data: Path, like: Array | None
) -> tuple[str, Array]:
    """Return the scheme, and the fold of every labelled row in every repeat (N R), -2 for the holdout."""
    folds, path = config.folds, data / config.train
    method = choose_method(config, grouped=bool((raw.groups[raw.train] != "").any()))
    if folds.column is not None:
        return method, whole_folds(column(read_train(config, data), folds.column, path), path, folds.column)[:, None]
    order = None if folds.order is None else read_times(config, data)
    held = np.zeros(len(units), bool)
    if like is not None:
        held = draw_test_like(strata, units, folds.holdout, folds.seed, like)
    elif folds.holdout:
        held = draw_holdout(strata, units, folds.holdout, folds.seed, order)
    codes = np.full((len(units), folds.repeats), HOLDOUT)
    rest = None if order is None else order[~held]
    for r in range(folds.repeats):
        seed = (folds.seed + r) % 2**32
        codes[~held, r] = assign(method, strata[~held], units[~held], folds.n, seed, rest)
    return method, codes


def read_times(config: Competition, data: Path) -> Array:
    """Return the column `folds.order` of numbers or ISO dates (in days) of the labelled rows."""
    path, name = data / config.train, config.folds.order or ""
    cells = column(read_train(config, data), name, path)
    values = pd.to_numeric(pd.Series(cells), errors="coerce")
    if values.isna().any():
        dates = pd.to_datetime(pd.Series(cells), format="ISO8601", errors="coerce", utc=True)
        values = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 86400
    wrong = ~np.isfinite(values.to_numpy(float))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: row {row + 2} has {str(cells[row])!r} in column {name!r}: all must be numbers, or ISO dates"
        )
    return values.to_numpy(float)


def whole_folds(cells: Array, path: Path, name: str) -> Array:
    """Return folds given by hand: whole numbers 0, 1, ... without a gap, at least two, or -2 for the holdout."""
    values = pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(float)
    scored = values[values != HOLDOUT]
    allowed = len(scored) and np.isin(scored, np.arange(len(scored))).all()
    if not allowed or len(np.unique(scored)) != scored.max() + 1 or scored.max() < 1:
        raise UserError(
            f"{path}: column {name!r} must hold folds 0, 1, ... without a gap, at least two (-2: the holdout)"
        )
    return values.astype(np.int64)


def reuse(files: CompetitionFiles, raw: Raw, wanted: dict[str, Any]) -> tuple[str, Array] | None:
    """Return the scheme and folds of the split in `folds/`, where it is of these settings, or was put there by hand."""
    if wanted["folds"]["column"] is not None or not files.folds.exists():
        return None
    given = not files.folds_receipt.exists()
    receipt: dict[str, Any] = {"method": "given by hand", "settings": wanted}
    if not given:
        receipt = read_json(files.folds_receipt)
    # A setting that came later had its default when the split was made.
    made = {**receipt["settings"], "folds": Folds().model_dump() | receipt["settings"]["folds"]}
    if made["group"] is not None:
        made["group"] = {"mosaic": False, **made["group"]}
    if made != wanted:
        return None
    frame = read_csv(files.folds)
    columns = [f"fold_{r}" if r else "fold" for r in range(wanted["folds"]["repeats"])]
    ids, labelled = column(frame, "id", files.folds).tolist(), raw.ids[raw.train].tolist()
    rows = dict(
        zip(ids, zip(*(column(frame, name, files.folds).tolist() for name in columns), strict=True), strict=True)
    )
    lacking = [i for i in labelled if rows.get(i, ("-1",))[0] == "-1"]
    if lacking:
        raise UserError(
            f"{files.folds} has no fold for id {lacking[0]!r} ({len(lacking)} such rows): add them, or delete the file "
            f"to split anew (runs of the old split are refused then)"
        )
    edited = not given and digest_file(files.folds) != receipt["csv"]
    cells = np.array([rows[i] for i in labelled])
    codes = np.column_stack([whole_folds(c, files.folds, name) for c, name in zip(cells.T, columns, strict=True)])
    if ((codes == HOLDOUT).any(1) != (codes == HOLDOUT).all(1)).any():
        raise UserError(f"{files.folds}: a row of the holdout (-2) must be so in every column: {', '.join(columns)}")
    return receipt["method"].removesuffix(EDITED) + (EDITED if edited else ""), codes
