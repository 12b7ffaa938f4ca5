"""Masks of a new competition drawn before anybody keeps its contract: the order of their runs, what will be sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.competitions import pictures
from pipeline.competitions.mask_submission import MaskForm
from pipeline.competitions.masks import draw_row
from pipeline.competitions.table_of_images import Raw
from pipeline.look.words import Finding
from pipeline.store.config import Competition
from pipeline.store.errors import listed
from pipeline.store.files import Array
from pipeline.store.table import files_of

LOOKED_AT = 60


def prove(config: Competition, data: Path, raw: Raw) -> list[Finding]:
    """Draw masks, evenly spaced over the rows, as `make folds` will draw all; return the order of their runs.

    Of square images nothing but the images themselves tells a mask from the same one turned over: the right order is
    the one whose masks say more of what is bright and what is dark.
    """
    rows = [row for row in np.flatnonzero(raw.train).tolist() if any(raw.cells[row])]
    looked = [rows[k] for k in np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int))] if rows else []
    told = {"column": list[float](), "row": list[float]()}
    for row in looked:
        image = pictures.read(config.images, data / files_of(raw.paths[row], config.images.channel)[0])
        size = np.array(image.shape[:2])
        for order, found in told.items():
            turned = config.model_copy(update={"masks": config.masks.model_copy(update={"order": order})})
            mask = draw_row(turned, data, raw, row, size)
            found.append(explained(image, (mask != 0).reshape(-1, *size).any(0)))
    if not looked or config.masks.pattern is not None:
        return []
    column, row_wise = (float(np.nanmean(found)) for found in told.values())
    better = "row" if row_wise > column else "column"
    words = (
        f"read {better} by {better}, {len(looked)} masks explain {max(column, row_wise):.1%} of the images' variance"
    )
    words += f", the other way {min(column, row_wise):.1%}"
    return [Finding("masks.order", better, words, max(column, row_wise) > 1.5 * min(column, row_wise))]


def explained(image: Array, mask: Array) -> float:
    """Return the share of the variance of grey values that lies between mask and rest; NaN where there is only one."""
    grey = np.asarray(image, np.float64).reshape(*mask.shape, -1).mean(2)
    share, variance = mask.mean(), grey.var()
    if share in (0, 1) or variance == 0:
        return float("nan")
    return float(share * (1 - share) * (grey[mask].mean() - grey[~mask].mean()) ** 2 / variance)


def submission(form: MaskForm) -> Finding:
    """Return in words what the file for Kaggle will hold."""
    each = "an object" if form.kind == "objects" else "a class of an image" if (form.index >= 0).all() else "a mask"
    cells = np.unique(form.sample[form.columns].to_numpy(str)).tolist()
    words = f"each cell will hold the RLE of {each}; an empty mask is {form.empty!r}"
    return Finding("submission.format", None, f"{words}; the sample has {listed(cells, 3)}")
