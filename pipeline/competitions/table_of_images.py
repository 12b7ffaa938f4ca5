"""The default competition: a CSV of ids and targets, and a folder of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from pipeline.competitions.dialect import delimiter
from pipeline.competitions.metadata import read_metadata
from pipeline.competitions.paths import class_folders, find, unlabelled
from pipeline.store.config import Competition, Extra, Group
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import Array
from pipeline.store.table import EXTRA, TEST, UNLABELLED


@dataclass(frozen=True)
class Raw:
    """Rows as the competition gives them: labelled first, then test, extra labelled and unlabelled ones.

    `codes`: 0 for rows that folds are made of, else the fold code; `y` is NaN where there is no label.
    """

    ids: Array
    codes: Array
    groups: Array
    paths: Array
    y: Array
    classes: list[str]
    weights: Array
    meta: Array
    columns: list[str]

    @property
    def train(self) -> Array:
        """Return which rows folds are made of."""
        return np.asarray(self.codes == 0)

    @property
    def test(self) -> Array:
        """Return which rows are to be submitted."""
        return np.asarray(self.codes == TEST)


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
    """Read the labelled rows: a table, or with `*` in `train` a glob of images whose folder is the class."""
    if "*" not in config.train:
        return read_csv(data / config.train)
    if not isinstance(config.target, str):
        raise UserError(f"target: class folders (train = {config.train!r}) give one target, not {config.target}")
    pattern = config.images.pattern.replace("{split}", config.images.train)
    ids, classes = class_folders(data, config.train, pattern)
    return pd.DataFrame({config.id: ids, config.target: classes}, dtype=str)


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


def read(config: Competition, data: Path) -> Raw:
    """Read the tables of a competition and find every image."""
    train_path, test_path = data / config.train, data / (config.test or config.submission.sample)
    frame, test_frame = read_train(config, data), read_csv(test_path)
    if not len(frame):
        raise UserError(f"{train_path} has no rows")
    if not len(test_frame):
        raise UserError(f"{test_path} has no rows: there is nothing to predict")
    train_ids, test_ids = read_ids(frame, config.id, train_path), read_ids(test_frame, config.id, test_path)
    sample_path = data / config.submission.sample
    unknown = np.setdiff1d(read_ids(read_csv(sample_path), config.id, sample_path), test_ids)
    if len(unknown):
        raise UserError(f"{sample_path}: id {str(unknown[0])!r} is not in {test_path} ({len(unknown)} such ids)")
    y, classes = encode(config, frame, train_ids, train_path)
    where = config.images
    train = Part(0, frame, train_ids, train_path, y, locate(config, where.pattern, data, train_ids, where.train))
    test = Part(TEST, test_frame, test_ids, test_path, None, locate(config, where.pattern, data, test_ids, where.test))
    twice = np.intersect1d(test.paths, train.paths)
    if len(twice):
        raise UserError(f"{test_path}: image {str(twice[0])!r} belongs to a train row too: remove it from one table")
    parts = [train, test]
    if config.extra is not None:
        parts.append(read_extra(config, config.extra, data, classes, train_ids, test_ids))
    if config.unlabelled is not None:
        paths = unlabelled(config.unlabelled, data, np.concatenate([part.paths for part in parts]))
        nothing = pd.DataFrame(index=range(len(paths)), columns=frame.columns, data="")
        parts.append(Part(UNLABELLED, nothing, paths, data, None, paths))
    return join(config, data, parts, y, classes)


@dataclass(frozen=True)
class Part:
    """Rows of one kind: their fold code, table, ids, where they stand, targets (N T) and image paths."""

    code: int
    frame: pd.DataFrame
    ids: Array
    path: Path
    y: Array | None
    paths: Array


def locate(config: Competition, pattern: str, data: Path, ids: Array, split: str) -> Array:
    """Return the image path of every id of a split."""
    return find(config.images, pattern, data, ids, np.full(len(ids), split))


def read_extra(config: Competition, extra: Extra, data: Path, classes: list[str], *taken: Array) -> Part:
    """Read labelled rows from elsewhere; their classes are those of the train table."""
    path = data / extra.table
    frame = read_csv(path)
    ids = read_ids(frame, config.id, path)
    twice = np.intersect1d(ids, np.concatenate(taken))
    if len(twice):
        raise UserError(
            f"{path}: id {str(twice[0])!r} is a train or test row too ({len(twice)} such): rename or drop it"
        )
    known = config if isinstance(config.target, list) else config.model_copy(update={"classes": classes})
    y, _ = encode(known, frame, ids, path)
    return Part(EXTRA, frame, ids, path, y, locate(config, extra.pattern, data, ids, config.images.train))


def join(config: Competition, data: Path, parts: list[Part], encoded: Array, classes: list[str]) -> Raw:
    """Put the rows of all kinds together."""
    codes = np.concatenate([np.full(len(part.ids), part.code) for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    blank = np.full((len(ids), encoded.shape[1]), np.nan)
    y = np.concatenate([blank[: len(part.ids)] if part.y is None else part.y for part in parts])
    groups = np.full(len(ids), "", object)
    if config.group is not None:
        labelled = [part.frame for part in parts if part.y is not None]
        table = pd.concat(labelled, ignore_index=True)
        groups = read_groups(config.group, config.id, table, ids, codes != 0, data, parts[0].path)
    weights = np.ones(len(ids))
    if config.weight is not None:
        known = [read_weights(config.weight, p.frame, p.ids, p.path) for p in parts if p.y is not None]
        weights[np.isin(codes, (0, EXTRA))] = np.concatenate(known)
    meta, columns = np.zeros((len(ids), 0)), list[str]()
    if config.metadata is not None:
        lookup = None
        if config.metadata.table is not None:
            path = data / config.metadata.table
            table = read_csv(path)
            lookup = (table, column(table, config.metadata.id or config.id, path), path)
        meta, columns = read_metadata(config.metadata, [(part.frame, part.ids, part.path) for part in parts], lookup)
    paths = np.concatenate([part.paths for part in parts])
    return Raw(ids, codes, groups.astype(str), paths, y, classes, weights, meta, columns)


def read_weights(name: str, frame: pd.DataFrame, ids: Array, path: Path) -> Array:
    """Return the sample weights (N) of labelled rows: 0 or more, some above 0."""
    values = numbers(column(frame, name, path)[:, None], [name], ids, path)[:, 0]
    if (values < 0).any() or not values.any():
        who = f"id {str(ids[values < 0][0])!r} has {values[values < 0][0]:g}" if values.any() else "all are 0"
        raise UserError(f"{path}: weights in column {name!r} are 0 or more, some above 0; {who}")
    return values


def encode(config: Competition, frame: pd.DataFrame, ids: Array, path: Path) -> tuple[Array, list[str]]:
    """Return targets (N T) as numbers and the names of classes, labels, grades or targets."""
    names = [config.target] if isinstance(config.target, str) else config.target
    cells = np.column_stack([column(frame, name, path) for name in names])
    cells = np.char.strip(cells)
    if config.separator is not None:
        return _encode_joined(config, cells[:, 0], ids, path)
    empty = (cells == "") | (np.char.lower(cells) == "nan")
    refuse_empty(config, empty, names, ids, path)
    if config.task == "regression":
        return numbers(cells, names, ids, path, empty), names
    if config.soft:
        return soft_targets(numbers(cells, names, ids, path, empty), names, config, ids, path)
    if len(names) > 1:
        values = numbers(cells, names, ids, path, empty)
        wrong = ~(np.isin(values, (0, 1)) | empty).all(1)
        if config.task == "multiclass":
            wrong |= values.sum(1) != 1
        if wrong.any():
            want = "exactly one 1 and else 0" if config.task == "multiclass" else "0 or 1"
            raise UserError(f"{path}: id {str(ids[wrong][0])!r} must have {want} in columns {names}")
        return (values if config.task == "multilabel" else values.argmax(1)[:, None]), names
    classes = config.classes or _sorted(np.unique(cells).tolist())
    if config.task == "binary" and len(classes) != 2:
        raise UserError(f"{path}: a binary target has 2 values, column {names[0]!r} has {len(classes)}: {classes[:5]}")
    if len(classes) < 2:
        raise UserError(f"{path}: column {names[0]!r} has one class only ({classes[0]!r}): nothing to learn")
    if config.task == "ordinal":
        try:
            [float(c) for c in classes]
        except ValueError:
            raise UserError(f"{path}: ordinal grades must be numbers, column {names[0]!r} has {classes[:5]}") from None
    index = {c: i for i, c in enumerate(classes)}
    for i, cell in zip(ids.tolist(), cells[:, 0].tolist(), strict=True):
        if cell not in index:
            raise UserError(
                f"{path}: id {i!r} has the label {cell!r}, which is not among the classes; {nearest(cell, classes)}"
            )
    return np.array([[index[cell]] for cell in cells[:, 0].tolist()], float), classes


def refuse_empty(config: Competition, empty: Array, names: list[str], ids: Array, path: Path) -> None:
    """Refuse empty cells (N T): any, or with unknown = "mask" a whole row or a whole column of them."""
    if config.unknown == "refuse" and empty.any():
        row, t = np.argwhere(empty)[0]
        several = "" if len(names) == 1 else ' (or set unknown = "mask")'
        raise UserError(
            f"{path}: id {str(ids[row])!r} has no value in column {names[t]!r}: fill it or drop the row{several}"
        )
    if empty.all(1).any():
        who = str(ids[empty.all(1)][0])
        raise UserError(f"{path}: id {who!r} has no value in any of the columns {names}: drop the row")
    if len(empty) and empty.all(0).any():
        raise UserError(f"{path}: column {names[int(empty.all(0).argmax())]!r} has no value at all: drop it")


def soft_targets(
    values: Array, names: list[str], config: Competition, ids: Array, path: Path
) -> tuple[Array, list[str]]:
    """Return soft targets (N T) and the names of classes: 0 to 1, those of classes with a sum of 1 (made exact)."""
    wrong = ~(((values >= 0) & (values <= 1)) | np.isnan(values)).all(1)
    want = "numbers from 0 to 1"
    if config.task == "multiclass":
        wrong, want = wrong | (np.abs(values.sum(1) - 1) > 1e-3), f"{want} that sum to 1"
    if wrong.any():
        raise UserError(f"{path}: id {str(ids[wrong][0])!r} must have {want} in columns {names} (soft = true)")
    if config.task == "multiclass":
        return values / values.sum(1, keepdims=True), names
    return values, config.classes or names if config.task == "binary" else names


def read_groups(
    group: Group, id_name: str, frame: pd.DataFrame, ids: Array, test: Array, data: Path, train_path: Path
) -> Array:
    """Return the group of every row; a train row without one is refused, a test row may have none ("")."""
    if group.pattern is not None:
        try:
            pattern = re.compile(group.pattern)
        except re.error as error:
            raise UserError(f"group.pattern {group.pattern!r} is not a regular expression: {error}") from error
        found = [pattern.search(i) for i in ids.tolist()]
        values = [None if m is None else m.group(1 if pattern.groups else 0) for m in found]
        where = f"group.pattern {group.pattern!r}"
    else:
        assert group.column is not None
        path = data / group.table if group.table else train_path
        table = read_csv(path) if group.table else frame
        keys = column(table, group.id or id_name, path)
        of = dict(zip(keys.tolist(), column(table, group.column, path).tolist(), strict=True))
        values = [of.get(i) for i in ids.tolist()]
        where = f"{path}, column {group.column!r}"
    for i, value, is_test in zip(ids.tolist(), values, test.tolist(), strict=True):
        if not value and not is_test:
            raise UserError(f"{where} gives no group for id {i!r}: every train row needs one")
    return np.array([value or "" for value in values], object)


def _encode_joined(config: Competition, cells: Array, ids: Array, path: Path) -> tuple[Array, list[str]]:
    """Encode a column of joined labels; an empty cell is the valid empty set."""
    assert config.separator is not None
    split = [[part.strip() for part in cell.split(config.separator) if part.strip()] for cell in cells.tolist()]
    classes = config.classes or _sorted({label for labels in split for label in labels})
    if not classes:
        raise UserError(f"{path}: column {config.target!r} has no label at all")
    y = np.zeros((len(split), len(classes)))
    for row, labels in enumerate(split):
        for label in labels:
            if label not in classes:
                who = str(ids[row])
                raise UserError(
                    f"{path}: id {who!r} has the label {label!r}, not among the classes; {nearest(label, classes)}"
                )
            y[row, classes.index(label)] = 1
    return y, classes


def numbers(cells: Array, names: Sequence[str], ids: Array, path: Path, empty: Array | None = None) -> Array:
    """Return cells (N T) of text as finite numbers; `empty` ones are NaN."""
    values = np.column_stack([pd.to_numeric(pd.Series(c), errors="coerce").to_numpy(float) for c in cells.T])
    wrong = ~np.isfinite(values) if empty is None else ~np.isfinite(values) & ~empty
    if wrong.any():
        row, t = np.argwhere(wrong)[0]
        raise UserError(f"{path}: id {str(ids[row])!r} has {str(cells[row, t])!r} in column {names[t]!r}, not a number")
    return values


def _sorted(values: Sequence[str] | set[str]) -> list[str]:
    """Sort numerically where every value is a number, else by name."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)
