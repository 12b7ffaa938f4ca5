"""Read tables as text, column by column; nothing is guessed but the delimiter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from pipeline.competitions.dialect import delimiter
from pipeline.competitions.paths import class_folders
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import Array
from pipeline.store.masks import Masks


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table as text, divided by ',', ';' or tabs: no guessing of types, an empty cell stays an empty cell."""
    if not path.exists():
        raise UserError(f"{path} does not exist: put or link the competition's files into {path.parent}")
    try:
        frame = pd.read_csv(path, sep=delimiter(path), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as CSV: {str(error).strip()}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas would shift every cell by one column
        raise UserError(f"{path}: rows have more cells than the header: remove closing delimiters, or name the column")
    return frame


def read_train(config: Competition, data: Path) -> pd.DataFrame:
    """Read the labelled rows: a table, or with `*` in `train` a glob of images whose folder is the class.

    A table of masks may have several rows an id: the first of each stands for it.
    """
    if "*" not in config.train and config.masks.pattern is not None:
        return read_csv(data / config.train)
    if "*" not in config.train:
        return one_row(config.masks, config.id, read_csv(data / config.train), data / config.train)
    if config.masks.pattern is not None:
        pattern = config.images.pattern.replace("{split}", config.images.train)
        return pd.DataFrame({config.id: class_folders(data, config.train, pattern)[0]}, dtype=str)
    if not isinstance(config.target, str):
        raise UserError(f"target: class folders (train = {config.train!r}) give one target, not {config.target}")
    pattern = config.images.pattern.replace("{split}", config.images.train)
    ids, classes = class_folders(data, config.train, pattern)
    return pd.DataFrame({config.id: ids, config.target: classes}, dtype=str)


def one_row(masks: Masks, name: str, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the first row of every id (column `name`) where a table of masks repeats them, by class or object."""
    if not (masks.long or masks.objects):
        return frame
    ids = divide_ids(masks, name, frame, path)[0]
    return frame.assign(**{name: ids}).drop_duplicates(name).reset_index(drop=True)


def divide_ids(masks: Masks, name: str, frame: pd.DataFrame, path: Path) -> tuple[Array, Array | None]:
    """Return the id of every row and the name of its class, from its column or the end of the id; None: rows have none.

    A column of ids that end on a class may have another name than the id; then it is the first.
    """
    if masks.class_ in frame.columns:
        return column(frame, name, path), column(frame, str(masks.class_), path)
    if masks.separator is None:
        return column(frame, name, path), None
    cells = column(frame, name if name in frame.columns else str(frame.columns[0]), path)
    parts = [cell.rpartition(masks.separator) for cell in cells.tolist()]
    for cell, (i, _, part) in zip(cells.tolist(), parts, strict=True):
        if not i or not part:
            raise UserError(f"{path}: id {cell!r} is no image and class joined by {masks.separator!r}")
    return np.array([i for i, _, _ in parts]), np.array([part for _, _, part in parts])


def column(frame: pd.DataFrame, name: str, path: Path) -> Array:
    """Return a column as text; a missing one is named with the nearest match."""
    if name not in frame.columns:
        raise UserError(f"{path} has no column {name!r}; {nearest(name, map(str, frame.columns))}")
    return frame[name].to_numpy(str)


def read_ids(frame: pd.DataFrame, name: str, path: Path) -> Array:
    """Return the id column: present, unique, and safe as a part of a path."""
    ids = column(frame, name, path)
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{path}: id {str(values[counts > 1][0])!r} stands there {counts.max()} times: keep one row an id"
        )
    for row, value in enumerate(ids.tolist()):
        if not value.strip():
            raise UserError(f"{path}: row {row + 2} has an empty id in column {name!r}")
        if "\\" in value or "\0" in value or value.startswith("/") or ".." in PurePosixPath(value).parts:
            raise UserError(f"{path}: id {value!r} (row {row + 2}) would lead out of the data folder: rename it")
    return ids


def numbers(cells: Array, names: Sequence[str], ids: Array, path: Path, empty: Array | None = None) -> Array:
    """Return cells (N T) of text as finite numbers; `empty` ones are NaN."""
    values = np.column_stack([pd.to_numeric(pd.Series(c), errors="coerce").to_numpy(float) for c in cells.T])
    wrong = ~np.isfinite(values) if empty is None else ~np.isfinite(values) & ~empty
    if wrong.any():
        row, t = np.argwhere(wrong)[0]
        raise UserError(f"{path}: id {str(ids[row])!r} has {str(cells[row, t])!r} in column {names[t]!r}, not a number")
    return values
