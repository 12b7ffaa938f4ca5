"""The table of record: one row an id, and the fold codes that say what a row is for.

Codes: 0..K-1 scored; -1 test; -2 holdout; -3 extra labelled; -4 extra unlabelled. Table order rules every array:
`oof.npy` holds the rows with fold >= 0, `test.npy` those with -1, then those with -4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, read_json

TEST, HOLDOUT, EXTRA, UNLABELLED = -1, -2, -3, -4


@dataclass(frozen=True)
class Table:
    """Rows of a competition: N ids, folds, groups ("" for none), image paths, byte digests, targets (N T)."""

    ids: Array
    folds: Array
    groups: Array
    paths: Array
    digests: Array
    y: Array
    classes: list[str]

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
        """Return the groups of the scored rows, a row without one standing alone; None where there are none."""
        groups = self.groups[self.scored]
        if not (groups != "").any():
            return None
        return np.asarray(np.where(groups == "", np.char.add("\0", self.ids[self.scored].astype(str)), groups))

    def fold_map(self) -> str:
        """Return the hash of every row that is trained on or scored: ids, folds and groups."""
        rows = ~np.isin(self.folds, (TEST, UNLABELLED))
        return digest(*self.ids[rows], *self.folds[rows].astype(str), *self.groups[rows])

    def content(self, rows: Array) -> str:
        """Return the hash of the images and targets of some rows."""
        return digest(*self.ids[rows], *self.digests[rows], self.y[rows].tobytes())


def write_table(path: Path, table: Table) -> None:
    """Write a table of record."""
    frame = pd.DataFrame(
        {"id": table.ids, "fold": table.folds, "group": table.groups, "path": table.paths, "digest": table.digests}
    )
    for t in range(table.y.shape[1]):
        frame[f"y{t}"] = table.y[:, t]
    frame.to_csv(path, index=False, float_format="%.17g")


def read_table(name: str) -> Table:
    """Read the table of record of a competition."""
    files = CompetitionFiles(name)
    if not files.table.exists() or not files.folds_receipt.exists():
        raise UserError(f"{files.table} is missing: run make folds COMP={name}")
    text = dict.fromkeys(("id", "group", "path", "digest"), str)
    frame = pd.read_csv(files.table, dtype=text, keep_default_na=False, na_values={"y0": [""]})
    targets = frame.filter(regex=r"^y\d+$").apply(pd.to_numeric).to_numpy(np.float64)
    ids, groups, paths, digests = (frame[column].to_numpy(str) for column in text)
    classes = read_json(files.folds_receipt)["classes"]
    return Table(ids, frame["fold"].to_numpy(np.int64), groups, paths, digests, targets, classes)
