"""Columns that join the head, as numbers: a numeric one as it is (NaN: unknown), a categorical one as 0/1 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.store.config import Metadata
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
        known = [value for value in np.unique(cells[name][0]).tolist() if value.lower() not in UNKNOWN]
        if not 0 < len(known) <= MOST:
            raise UserError(
                f"metadata.categorical: column {name!r} has {len(known)} values, 1 to {MOST} are taken: leave it out"
            )
        columns += [np.concatenate(cells[name]) == value for value in known]
        names += [f"{name}={value}" for value in known]
    return np.column_stack(columns).astype(float), names


def _cells(name: str, part: Part, lookup: Part | None) -> Array:
    """Return a column of the rows of a part, as text."""
    frame, ids, path = part
    if lookup is None:
        if name not in frame.columns:
            raise UserError(
                f"{path} has no column {name!r}, which [metadata] names; {nearest(name, map(str, frame.columns))}; "
                f"metadata.table names another table"
            )
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
            f"mend it, or list the column under metadata.categorical"
        )
    return np.where(unknown, np.nan, values)
