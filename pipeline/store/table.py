"""The table of record: one row an id, and the fold codes that say what a row is for.

Codes: 0..K-1 scored; -1 test; -2 holdout; -3 extra labelled; -4 extra unlabelled. Table order rules every array:
`oof.npy` holds the rows with fold >= 0, `test.npy` those with -1, then those with -4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest, digest_file

TEST, HOLDOUT, EXTRA, UNLABELLED = -1, -2, -3, -4
# Between the views of a row in its path; no file name of a competition holds it (refused where one does).
VIEWS = "|"


@dataclass(frozen=True)
class Table:
    """Rows of a competition: N ids, folds, groups ("" for none), image paths, byte digests, targets (N T).

    `units` names what is drawn together in a bootstrap: rows of one group, and copies of an image. `weights` (N) are of
    the rows in loss and metric, `meta` (N M) numbers that join the head, NaN where unknown. `further` (N R-1) holds the
    folds of repeats 1, 2, ...: the same rows split again. `shut` (N, text) names the folds, "0 2" for two, whose models
    must not learn from a row though it is in another fold: it lies too near to them in time. `extents` (N 2) are height
    and width of the images, for masks; `y` is then the share of an image that each class covers, and `scored_classes`
    the places of those that the sample submission asks for, which alone are scored (None: all). `auxiliary` (N A) are
    columns that may be learnt beside the targets: numbers, then categories 0, 1, ...; NaN where unknown.
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
    meta: Array
    further: Array | None = None
    shut: Array | None = None
    extents: Array | None = None
    scored_classes: tuple[int, ...] | None = None
    auxiliary: Array | None = None

    @property
    def sizes(self) -> Array:
        """Return height and width of the images (N 2, int32); -1 where the task has no masks."""
        return np.full((len(self.ids), 2), -1, np.int32) if self.extents is None else self.extents

    def shut_from(self, codes: Iterable[int]) -> Array:
        """Return which rows (N, bool) the models of some folds must not learn from, though they are in others.

        Rows that are too near to the holdout are shut from all.
        """
        if self.shut is None:
            return np.zeros(len(self.ids), bool)
        names = {str(code) for code in (*codes, HOLDOUT)}
        return np.array([not names.isdisjoint(text.split()) for text in self.shut.tolist()], bool)

    @property
    def repeats(self) -> Array:
        """Return the folds of every repeat (N R); those of repeat 0 are `folds`, whose codes below 0 hold for all."""
        return self.folds[:, None] if self.further is None else np.column_stack([self.folds, self.further])

    def split(self, repeat: int) -> Table:
        """Return the same rows with the folds of one repeat alone."""
        if self.further is None:
            return self
        return replace(self, folds=self.repeats[:, repeat], further=None)

    @property
    def splits(self) -> list[Table]:
        """Return the table as each repeat has it: its folds alone."""
        return [self.split(r) for r in range(self.repeats.shape[1])]

    @property
    def scored(self) -> Array:
        """Return the positions of the rows of `oof.npy`."""
        return np.asarray(np.flatnonzero(self.folds >= 0))

    @property
    def test(self) -> Array:
        """Return the positions of the rows of `test.npy`."""
        return np.concatenate([np.flatnonzero(self.folds == TEST), np.flatnonzero(self.folds == UNLABELLED)])

    @property
    def holdout(self) -> Array:
        """Return the positions of the rows of `holdout.npy`: labelled, never learnt from nor tuned on."""
        return np.asarray(np.flatnonzero(self.folds == HOLDOUT))

    @property
    def extra(self) -> Array:
        """Return the positions of the extra labelled rows."""
        return np.asarray(np.flatnonzero(self.folds == EXTRA))

    @property
    def labelled(self) -> Array:
        """Return the positions of the scored rows, then of the extra ones: what a model may learn from."""
        return np.concatenate([self.scored, self.extra])

    @property
    def answered(self) -> Array:
        """Return which rows (N, bool) have a known answer: scored, held out and extra ones."""
        return ~np.isin(self.folds, (TEST, UNLABELLED))

    def foreign(self, folds: tuple[int, ...]) -> Array:
        """Return which labelled rows have nothing to do with some folds: extra rows that share no group or image."""
        rows, held_out = self.labelled, np.isin(self.folds, (*folds, HOLDOUT))
        groups = np.setdiff1d(self.groups[held_out], [""])
        alike = np.isin(self.groups[rows], groups) | np.isin(self.digests[rows], self.digests[held_out])
        alike |= np.isin(self.units[rows], self.units[held_out])
        kin = np.isin(self.folds[rows], folds) | (alike & (self.folds[rows] == EXTRA)) | self.shut_from(folds)[rows]
        return np.asarray(~kin)

    @property
    def group(self) -> Array | None:
        """Return the units of the scored rows; None where every row stands alone."""
        units = self.units[self.scored]
        return units if len(np.unique(units)) < len(units) else None

    def fold_map(self) -> str:
        """Return the hash of every row that is trained on or scored: ids, folds and groups."""
        rows = ~np.isin(self.folds, (TEST, UNLABELLED))
        more = [] if self.further is None else [*self.further[rows].astype(str).ravel()]
        more += [] if self.shut is None else ["shut", *self.shut[rows]]
        return digest(*self.ids[rows], *self.folds[rows].astype(str), *self.groups[rows], *more)

    def content(self, rows: Array) -> str:
        """Return the hash of the images and targets of some rows."""
        numbers = (self.y, self.weights, self.meta, *([] if self.auxiliary is None else [self.auxiliary]))
        return digest(*self.ids[rows], *self.digests[rows], *(part[rows].tobytes() for part in numbers))


def half_of(ids: Array) -> Array:
    """Return 0 or 1 for each id, by its hash: the half of pseudo-labels that a test row belongs to.

    A row of half h is always predicted by the student of the other half, 1 - h; scored rows follow the same rule.
    """
    return np.array([int(digest(str(i))[:8], 16) % 2 for i in ids], np.int64)


def files_of(path: str, channel: list[str] | None) -> list[str]:
    """Return the files of a row, channel by channel within each view; "" for a view that it lacks."""
    views = path.split(VIEWS)
    return [view.replace("{channel}", name) if name else view for view in views for name in channel or [""]]


def combined(digests: list[str]) -> str:
    """Return the digest of a row's files: of the only one, or of all in order."""
    return digests[0] if len(digests) == 1 else digest(*digests)


TEXT = ("id", "group", "path", "digest")


def write_table(path: Path, table: Table) -> None:
    """Write a table of record."""
    texts = dict(zip(TEXT, (table.ids, table.groups, table.paths, table.digests), strict=True))
    frame = pd.DataFrame({"id": texts.pop("id"), **fold_columns(table.repeats), "unit": table.units, **texts})
    if table.shut is not None:
        frame["shut"] = table.shut
    if table.extents is not None:
        frame["height"], frame["width"] = table.extents.T
    for t in range(table.y.shape[1]):
        frame[f"y{t}"] = table.y[:, t]
    if (table.weights != 1).any():
        frame["weight"] = table.weights
    for m in range(table.meta.shape[1]):
        frame[f"m{m}"] = table.meta[:, m]
    for a, column in enumerate([] if table.auxiliary is None else table.auxiliary.T):
        frame[f"a{a}"] = column
    frame.to_csv(path, index=False, float_format="%.17g")


def fold_columns(repeats: Array) -> dict[str, Array]:
    """Return the columns `fold, fold_1, ...` of the folds of every repeat (N R)."""
    return {f"fold_{r}" if r else "fold": repeats[:, r] for r in range(repeats.shape[1])}


def read_table(files: CompetitionFiles, facts: dict[str, Any]) -> Table:
    """Read the table of record that `facts`, its receipt, speaks of."""
    if digest_file(files.table) != facts["outputs"][str(files.table)]:
        raise UserError(f"{files.table} is not what {files.table_receipt} says: run make folds COMP={files.name}")
    frame = pd.read_csv(
        files.table, dtype=dict.fromkeys((*TEXT, "shut"), str), keep_default_na=False, na_values={"y0": [""]}
    )
    targets, meta, auxiliary = (
        frame.filter(regex=rf"^{c}\d+$").apply(pd.to_numeric).to_numpy(np.float64) for c in "yma"
    )
    weights = frame["weight"].to_numpy(np.float64) if "weight" in frame else np.ones(len(frame))
    ids, groups, paths, digests = (frame[column].to_numpy(str) for column in TEXT)
    folds, units = (frame[column].to_numpy(np.int64) for column in ("fold", "unit"))
    # Written in order: repeat 1, 2, ...
    further = frame.filter(regex=r"^fold_\d+$").to_numpy(np.int64)
    shut = frame["shut"].to_numpy(str) if "shut" in frame else None
    sizes = frame[["height", "width"]].to_numpy(np.int32) if "height" in frame else None
    asked = facts.get("scored_classes")
    more = (further if further.shape[1] else None, shut, sizes, None if asked is None else tuple(asked))
    learnt = auxiliary if auxiliary.shape[1] else None
    return Table(ids, folds, groups, units, paths, digests, targets, facts["classes"], weights, meta, *more, learnt)
