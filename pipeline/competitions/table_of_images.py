"""The default competition: a CSV of ids and targets, and a folder of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competitions.mask_cells import find_classes, read_cells
from pipeline.competitions.mask_files import find_files
from pipeline.competitions.metadata import read_auxiliary, read_metadata
from pipeline.competitions.paths import find, unlabelled
from pipeline.competitions.pictures import mosaics
from pipeline.competitions.tables import column, numbers, one_row, read_csv, read_ids, read_train
from pipeline.competitions.targets import encode, with_classes
from pipeline.store.config import Competition, Extra, Group
from pipeline.store.errors import UserError
from pipeline.store.files import Array
from pipeline.store.table import EXTRA, TEST, UNLABELLED


@dataclass(frozen=True)
class Raw:
    """Rows as the competition gives them: labelled first, then test, extra labelled and unlabelled ones.

    `codes`: 0 for rows that folds are made of, else the fold code; `y` is NaN where there is no label. `cells` are the
    RLE cells or mask files of each labelled row, where targets are masks: `y` is NaN until they are drawn.
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
    auxiliary: Array | None
    cells: list[list[str]]

    @property
    def train(self) -> Array:
        """Return which rows folds are made of."""
        return np.asarray(self.codes == 0)

    @property
    def test(self) -> Array:
        """Return which rows are to be submitted."""
        return np.asarray(self.codes == TEST)


def read(config: Competition, data: Path) -> Raw:
    """Read the tables of a competition and find every image."""
    train_path, test_path = data / config.train, data / (config.test or config.submission.sample)
    frame, test_frame = read_train(config, data), read_csv(test_path)
    if config.test is None:
        test_frame = one_row(config.masks, config.id, test_frame, test_path)
    if not len(frame):
        raise UserError(f"{train_path} has no rows")
    if not len(test_frame):
        raise UserError(f"{test_path} has no rows: there is nothing to predict")
    masked = config.task == "segmentation"
    train_ids, test_ids = read_ids(frame, config.id, train_path), read_ids(test_frame, config.id, test_path)
    sample_path = data / config.submission.sample
    asked = one_row(config.masks, config.id, read_csv(sample_path), sample_path)
    unknown = np.setdiff1d(read_ids(asked, config.id, sample_path), test_ids)
    if len(unknown):
        raise UserError(f"{sample_path}: id {str(unknown[0])!r} is not in {test_path} ({len(unknown)} such ids)")
    y, classes = blank(config, data, train_ids) if masked else encode(config, frame, train_ids, train_path)
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


def blank(config: Competition, data: Path, ids: Array) -> tuple[Array, list[str]]:
    """Return targets that are not known before masks are drawn (N C, NaN), and the names of classes."""
    classes = find_classes(config, data)
    return np.full((len(ids), len(classes)), np.nan), classes


def read_masks(config: Competition, data: Path, parts: list[Part], classes: list[str]) -> list[list[str]]:
    """Return the RLE cells or the mask files of every row, [] where there is no label."""
    labelled = [part for part in parts if part.y is not None]
    if config.masks.pattern is not None:
        ids = np.concatenate([part.ids for part in labelled])
        files = iter(find_files(config, data, ids, classes))
        return [[] if part.y is None else next(files) for part in parts for _ in part.ids]
    found: list[list[str]] = []
    for part in parts:
        if part.y is None:
            found += [[]] * len(part.ids)
        else:
            found += read_cells(config, read_csv(part.path), part.path, part.ids, classes)
    return found


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
    frame = one_row(config.masks, config.id, read_csv(path), path)
    ids = read_ids(frame, config.id, path)
    twice = np.intersect1d(ids, np.concatenate(taken))
    if len(twice):
        raise UserError(
            f"{path}: id {str(twice[0])!r} is a train or test row too ({len(twice)} such): rename or drop it"
        )
    known = with_classes(config, classes)
    y, _ = blank(known, data, ids) if config.task == "segmentation" else encode(known, frame, ids, path)
    return Part(EXTRA, frame, ids, path, y, locate(config, extra.pattern, data, ids, config.images.train))


def join(config: Competition, data: Path, parts: list[Part], encoded: Array, classes: list[str]) -> Raw:
    """Put the rows of all kinds together."""
    codes = np.concatenate([np.full(len(part.ids), part.code) for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    empty = np.full((len(ids), encoded.shape[1]), np.nan)
    y = np.concatenate([empty[: len(part.ids)] if part.y is None else part.y for part in parts])
    groups = np.full(len(ids), "", object)
    paths = np.concatenate([part.paths for part in parts])
    if config.group is not None and config.group.mosaic:
        groups = mosaics(config.images, data, paths)
    elif config.group is not None:
        labelled = [p.frame for p in parts if p.y is not None or (p.code == TEST and config.group.column in p.frame)]
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
    learnt = None
    if config.auxiliary is not None:
        tables = [None if part.y is None else (part.frame, part.ids, part.path) for part in parts]
        learnt = read_auxiliary(config.auxiliary, tables, [len(part.ids) for part in parts])
    cells = read_masks(config, data, parts, classes) if config.task == "segmentation" else []
    return Raw(ids, codes, groups.astype(str), paths, y, classes, weights, meta, columns, learnt, cells)


def read_weights(name: str, frame: pd.DataFrame, ids: Array, path: Path) -> Array:
    """Return the sample weights (N) of labelled rows: 0 or more, some above 0."""
    values = numbers(column(frame, name, path)[:, None], [name], ids, path)[:, 0]
    if (values < 0).any() or not values.any():
        who = f"id {str(ids[values < 0][0])!r} has {values[values < 0][0]:g}" if values.any() else "all are 0"
        raise UserError(f"{path}: weights in column {name!r} are 0 or more, some above 0; {who}")
    return values


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
