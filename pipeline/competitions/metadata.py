"""Columns that join the head, as numbers: a numeric one as it is (NaN: unknown), a categorical one as 0/1 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.store.columns import Auxiliary, Metadata
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import Array

Part = tuple[pd.DataFrame, Array, Path]
UNKNOWN = ("", "nan", "na", "null", "none")
MOST = 200


def read_metadata(config: Metadata, parts: Sequence[Part], lookup: Part | None) -> tuple[Array, list[str]]:
    """Return the metadata (N M) of the rows of some tables in turn, and its names.

    A part is (frame, ids, path) and has the columns itself, or finds them by id in the table `lookup`; there a row may
    be missing. Categories are those of the first part, the train rows: others are told by no column.
    """
    cells = {name: [_cells(name, part, lookup) for part in parts] for name in [*config.numeric, *config.categorical]}
    columns, names = [], []
    for name in config.numeric:
        columns.append(
            np.concatenate([_numbers(name, c, *part[1:]) for c, part in zip(cells[name], parts, strict=True)])
        )
        names.append(name)
    for name in config.categorical:
        known = _categories(name, cells[name][0], "metadata.categorical")
        columns += [np.concatenate(cells[name]) == value for value in known]
        names += [f"{name}={value}" for value in known]
    return np.column_stack(columns).astype(float), names


def read_auxiliary(config: Auxiliary, parts: Sequence[Part | None], lengths: Sequence[int]) -> Array:
    """Return the columns (N A) of the rows of some tables in turn: numbers, then categories as 0, 1, ...; NaN: unknown.

    A part is None where rows have no labels; the first one, the train rows, says which categories there are.
    """
    found = np.full((sum(lengths), len(config.names)), np.nan)
    starts = np.cumsum([0, *lengths])
    for at, name in enumerate(config.names):
        known: list[str] = []
        for start, part in zip(starts, parts, strict=False):
            if part is None or (start and name not in part[0].columns):
                continue
            cells = _cells(name, part, None, "[auxiliary]")
            if name in config.numeric:
                values = _numbers(name, cells, *part[1:])
                if not start and np.isnan(values).all():
                    raise UserError(f"auxiliary.numeric: column {name!r} of {part[2]} has no number: leave it out")
            else:
                known = known or _categories(name, cells, "auxiliary.categorical")
                values = np.where(np.isin(cells, known), np.searchsorted(known, cells), np.nan)
            found[start : start + len(values), at] = values
    return found


def _categories(name: str, cells: Array, where: str) -> list[str]:
    """Return the values of a column that are known, in order."""
    known = [value for value in np.unique(cells).tolist() if value.lower() not in UNKNOWN]
    if not 0 < len(known) <= MOST:
        raise UserError(f"{where}: column {name!r} has {len(known)} values, 1 to {MOST} are taken: leave it out")
    return known


def _cells(name: str, part: Part, lookup: Part | None, section: str = "[metadata]") -> Array:
    """Return a column of the rows of a part, as text."""
    frame, ids, path = part
    if lookup is None:
        if name not in frame.columns:
            elsewhere = "; metadata.table names another table" if section == "[metadata]" else ""
            known = nearest(name, map(str, frame.columns))
            raise UserError(f"{path} has no column {name!r}, which {section} names; {known}{elsewhere}")
        return np.char.strip(frame[name].to_numpy(str))
    table, keys, where = lookup
    if name not in table.columns:
        raise UserError(f"{where} has no column {name!r}; {nearest(name, map(str, table.columns))}")
    if len(np.unique(keys)) < len(keys):
        raise UserError(f"{where}: an id stands there twice: keep one row an id")
    of = dict(zip(keys.tolist(), table[name].tolist(), strict=True))
    return np.char.strip(np.array([of.get(i, "") for i in ids.tolist()], str))


def _numbers(name: str, cells: Array, ids: Array, path: Path) -> Array:
    values = pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(float)
    unknown = np.isin(np.char.lower(cells), UNKNOWN)
    wrong = ~np.isfinite(values) & ~unknown
    if wrong.any():
        raise UserError(
            f"{path}: id {str(ids[wrong][0])!r} has {str(cells[wrong][0])!r} in column {name!r}, not a number: "
            f"mend it, or list the column as categorical"
        )
    return np.where(unknown, np.nan, values)
