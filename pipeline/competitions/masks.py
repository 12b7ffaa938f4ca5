"""Write the masks of the labelled rows, as the competition gives them, into one flat file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.competitions.mask_cells import Place, draw
from pipeline.competitions.mask_files import draw_files
from pipeline.competitions.table_of_images import Raw
from pipeline.masks.truth import coverage, create, kind_of
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, digest, require_space
from pipeline.store.table import EXTRA, TEST, UNLABELLED


def write_masks(config: Competition, data: Path, raw: Raw, sizes: Array, path: Path) -> tuple[Array, Array]:
    """Write the masks of the labelled rows to `path`, one at a time, so that memory holds a few.

    Return the share of each image that each class covers (N C; NaN where there is no label), and the hash of each mask.
    A class that covers no pixel at all is refused.
    """
    kind, labelled = kind_of(config.masks), ~np.isin(raw.codes, (TEST, UNLABELLED))
    if kind == "exclusive" and not 2 <= len(raw.classes) <= 256:
        raise UserError(f"masks.exclusive is for 2 to 256 classes, there are {len(raw.classes)}: leave it out")
    layers = len(raw.classes) if kind == "classes" else 2 if kind == "objects" else 1
    require_space(path.parent, int(sizes[labelled].astype(np.int64).prod(1).sum()) * layers, "the file of masks")
    y, marks = np.full((len(labelled), len(raw.classes)), np.nan), np.full(len(labelled), "", object)
    with atomic(path) as temporary:
        truth = create(temporary, sizes, labelled, len(raw.classes), kind)

        def one(row: int) -> None:
            drawn = draw_row(config, data, raw, row, sizes[row])
            truth.raw(row)[...] = drawn
            y[row] = coverage(drawn, len(raw.classes), kind)
            marks[row] = digest(kind, str(drawn.shape), drawn.tobytes())

        with ThreadPoolExecutor() as pool:
            list(pool.map(one, np.flatnonzero(labelled).tolist()))
        absent = [name for name, area in zip(raw.classes, y[labelled].sum(0), strict=True) if not area]
        if absent:
            raise UserError(f"{data / config.train}: class {absent[0]!r} has no pixel in any mask: nothing to learn")
    return y, marks.astype(str)


def draw_row(config: Competition, data: Path, raw: Raw, row: int, size: Array) -> Array:
    """Return the mask of a labelled row as it is stored (see `Truth`); `size` is height and width of its image."""
    kind, i = kind_of(config.masks), str(raw.ids[row])
    if config.masks.pattern is not None:
        return draw_files(config, data, raw.cells[row], size, kind, raw.classes, i)
    table = config.extra.table if config.extra is not None and raw.codes[row] == EXTRA else config.train
    return draw(config, raw.cells[row], size, kind, raw.classes, Place(data / table, i))
