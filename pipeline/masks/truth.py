"""The masks of the labelled rows: one flat array, written once with the table of record, read by every stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_npy

if TYPE_CHECKING:  # imports pandas, which this room does without
    from pipeline.store.masks import Masks
    from pipeline.store.table import Table

Kind = Literal["classes", "exclusive", "objects"]


def kind_of(masks: Masks) -> Kind:
    """Return how masks are stored: 0/1 for each class, the class of each pixel, or the number of its object."""
    return "objects" if masks.objects else "exclusive" if masks.exclusive else "classes"


@dataclass(frozen=True)
class Truth:
    """Masks of N rows of a table, those that have one: `flat` from `starts[row]` to `starts[row + 1]`.

    `kind` "classes": C h w of 0/1 (uint8); "exclusive": h w of class indices (uint8); "objects": h w of object numbers,
    0 for none (uint16). `sizes` (N 2) are height and width; a row without a mask has an empty stretch.
    """

    flat: Array
    starts: Array
    sizes: Array
    classes: int
    kind: Kind

    def __len__(self) -> int:
        """Return the number of rows of the table."""
        return len(self.sizes)

    def raw(self, row: int) -> Array:
        """Return what is stored of a row (its position in the table): C h w of several 0/1 classes, else h w."""
        height, width = self.sizes[row].tolist()
        stretch = self.flat[self.starts[row] : self.starts[row + 1]]
        assert len(stretch), f"row {row} of the table has no mask"
        several = self.kind == "classes" and self.classes > 1
        return stretch.reshape((self.classes, height, width) if several else (height, width))

    def __getitem__(self, row: int) -> Array:
        """Return the mask of a labelled row (C h w, bool)."""
        return layers_of(self.raw(row), self.classes, self.kind)

    def instances(self, row: int) -> Array:
        """Return the objects of a row's first class (h w, int32; 0: none): as given, else 4-connected components."""
        if self.kind == "objects":
            return np.asarray(self.raw(row), np.int32)
        return components(self[row][0])


def layers_of(raw: Array, classes: int, kind: Kind) -> Array:
    """Return a mask as it is stored as a layer a class (C h w, bool)."""
    if kind == "exclusive":
        return np.asarray(raw == np.arange(classes, dtype=raw.dtype)[:, None, None])
    return np.asarray(raw != 0).reshape(classes, *raw.shape[-2:])


def components(mask: Array) -> Array:
    """Return the 4-connected components of a mask (H W bool), numbered 1, 2, ... (int32; 0: none)."""
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1])


def lay_out(sizes: Array, labelled: Array, classes: int, kind: Kind) -> Array:
    """Return where the stretch of each row starts (N + 1), in table order; only `labelled` rows (N, bool) have one."""
    layers = classes if kind == "classes" else 1
    pixels = np.where(labelled, sizes.astype(np.int64).prod(1) * layers, 0)
    return np.concatenate([[0], np.cumsum(pixels)])


def create(path: Path, sizes: Array, labelled: Array, classes: int, kind: Kind) -> Truth:
    """Return masks that are written to `path` as they are set: a memory-mapped array of zeros."""
    starts = lay_out(sizes, labelled, classes, kind)
    dtype = np.uint16 if kind == "objects" else np.uint8
    flat = np.lib.format.open_memmap(path, "w+", dtype, (int(starts[-1]),), version=(1, 0))
    return Truth(flat, starts, sizes, classes, kind)


def coverage(raw: Array, classes: int, kind: Kind) -> Array:
    """Return the share of the pixels of a stored mask that is of each class (C)."""
    pixels = raw.shape[-2] * raw.shape[-1]
    if kind == "exclusive":
        return np.array([np.count_nonzero(raw == c) / pixels for c in range(classes)])
    return np.asarray(np.count_nonzero(raw.reshape(classes, -1), axis=1) / pixels)


def read_truth(files: CompetitionFiles, table: Table, competition: Competition) -> Truth:
    """Return the masks of a table of record, memory-mapped."""
    kind, classes = kind_of(competition.masks), len(table.classes)
    starts = lay_out(table.sizes, table.answered, classes, kind)
    if not files.masks.exists() or len(flat := read_npy(files.masks)) != starts[-1]:
        raise UserError(f"{files.masks} is missing or not of this table: run make folds COMP={files.name}")
    return Truth(flat, starts, table.sizes, classes, kind)
