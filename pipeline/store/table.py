"""The table of record: one row an id, and the fold codes that say what a row is for.

Codes: 0..K-1 scored; -1 test; -2 holdout; -3 extra labelled; -4 extra unlabelled. Table order rules every array:
`oof.npy` holds the rows with fold >= 0, `test.npy` those with -1, then those with -4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_file

TEST, HOLDOUT, EXTRA, UNLABELLED = -1, -2, -3, -4


@dataclass(frozen=True)
class Table:
    """Rows of a competition: N ids, folds, groups ("" for none), image paths, byte digests, targets (N T).

    `units` names what is drawn together in a bootstrap: rows of one group, and identical images. `weights` (N) are of
    the rows in loss and metric.
    """

    ids: Array
    folds: Array
    groups: Array
    units: Array
    paths: Array
    digests: Array
    y: Array
    classes: list[str]
    weights: Array

    @property
    def scored(self) -> Array:
        """Return the positions of the rows of `oof.npy`."""
        return np.asarray(np.flatnonzero(self.folds >= 0))

    @property
    def test(self) -> Array:
        """Return the positions of the rows of `test.npy`."""
        return np.concatenate([np.flatnonzero(self.folds == TEST), np.flatnonzero(self.folds == UNLABELLED)])

    @property
    def group(self) -> Array | None:
        """Return the units of the scored rows; None where every row stands alone."""
        units = self.units[self.scored]
        return units if len(np.unique(units)) < len(units) else None

    def fold_map(self) -> str:
        """Return the hash of every row that is trained on or scored: ids, folds and groups."""
        rows = ~np.isin(self.folds, (TEST, UNLABELLED))
        return digest(*self.ids[rows], *self.folds[rows].astype(str), *self.groups[rows])

    def content(self, rows: Array) -> str:
        """Return the hash of the images and targets of some rows."""
        numbers = (self.y, self.weights)
        return digest(*self.ids[rows], *self.digests[rows], *(part[rows].tobytes() for part in numbers))


def half_of(ids: Array) -> Array:
    """Return 0 or 1 for each id, by its hash: the half of pseudo-labels that a test row belongs to.

    A row of half h is always predicted by the student of the other half, 1 - h; scored rows follow the same rule.
    """
    return np.array([int(digest(str(i))[:8], 16) % 2 for i in ids], np.int64)


TEXT = ("id", "group", "path", "digest")


def write_table(path: Path, table: Table) -> None:
    """Write a table of record."""
    texts = dict(zip(TEXT, (table.ids, table.groups, table.paths, table.digests), strict=True))
    frame = pd.DataFrame({"id": texts.pop("id"), "fold": table.folds, "unit": table.units, **texts})
    for t in range(table.y.shape[1]):
        frame[f"y{t}"] = table.y[:, t]
    if (table.weights != 1).any():
        frame["weight"] = table.weights
    frame.to_csv(path, index=False, float_format="%.17g")


def read_table(files: CompetitionFiles, facts: dict[str, Any]) -> Table:
    """Read the table of record that `facts`, its receipt, speaks of."""
    if digest_file(files.table) != facts["outputs"][str(files.table)]:
        raise UserError(f"{files.table} is not what {files.table_receipt} says: run make folds COMP={files.name}")
    frame = pd.read_csv(files.table, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values={"y0": [""]})
    targets = frame.filter(regex=r"^y\d+$").apply(pd.to_numeric).to_numpy(np.float64)
    weights = frame["weight"].to_numpy(np.float64) if "weight" in frame else np.ones(len(frame))
    ids, groups, paths, digests = (frame[column].to_numpy(str) for column in TEXT)
    folds, units = (frame[column].to_numpy(np.int64) for column in ("fold", "unit"))
    return Table(ids, folds, groups, units, paths, digests, targets, facts["classes"], weights)
