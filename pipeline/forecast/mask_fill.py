"""Masks of tiles continued from the training mask of a tile beside them (the columns of salt of TGS 2018).

A mask that does not change through the half of a tile which lies next to the shared border is taken to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.mask_variants import Masks
from pipeline.store.files import Array

# Through what share of the neighbour, from the shared border, its mask must not change.
STILL = 0.5
Step = tuple[int, int]


@dataclass(frozen=True)
class Beside:
    """What the training masks of tiles beside N images say of them: of each the rows and the steps from there."""

    truth: Masks
    told: Sequence[Sequence[tuple[int, Step]]]

    @classmethod
    def of(cls, truth: Masks, links: Array, rows: Array, folds: Array) -> Beside:
        """Return what is known beside some rows of the table, by links (M 4: one row, another, the step: down, right).

        Only scored rows speak, and only of rows that are not of their own fold (`folds` are those of all rows).
        """
        near: dict[int, list[tuple[int, Step]]] = {row: [] for row in rows.tolist()}
        for one, other, down, right in links.tolist():
            for row, neighbour, step in ((other, one, (down, right)), (one, other, (-down, -right))):
                if row in near and folds[neighbour] >= 0 and folds[neighbour] != folds[row]:
                    near[row].append((neighbour, step))
        return cls(truth, [near[row] for row in rows.tolist()])

    @property
    def speaks(self) -> Array:
        """Return of which images (N, bool) some neighbour says anything."""
        return np.array(
            [any(stays(mask, step) is not None for n, step in told for mask in self.truth[n]) for told in self.told],
            bool,
        )

    def fill(self, i: int, mask: Array) -> Array:
        """Return the mask (C H W) of an image, its classes continued from the neighbours that tell of them."""
        seen = [(self.truth[neighbour], step) for neighbour, step in self.told[i]]
        return np.stack([continued(own, [(theirs[c], step) for theirs, step in seen]) for c, own in enumerate(mask)])


def continued(mask: Array, seen: Sequence[tuple[Array, Step]]) -> Array:
    """Return a mask (H W bool) as those beside it go on into it; as it is where none does.

    Several are weighed by how near a pixel is to their border.
    """
    total, weight = np.zeros(mask.shape), np.zeros(mask.shape)
    for theirs, step in seen:
        if (line := stays(theirs, step)) is not None:
            lines = len(lines_of(mask, step))
            near = np.repeat(1 - (np.arange(lines)[:, None] + 0.5) / lines, len(line), axis=1)
            total += image_of(near * line, step)
            weight += image_of(near, step)
    return np.where(weight > 0, total > weight / 2, mask)


def stays(mask: Array, step: Step) -> Array | None:
    """Return the line of a mask (H W bool) at the border that a step crosses, None where it does not go on.

    It goes on where no line differs through half the tile; one that is all or nothing tells too little.
    """
    lines = lines_of(mask, (-step[0], -step[1]))
    half, line = lines[: max(1, round(STILL * len(lines)))], lines[0]
    return line if line.any() and not line.all() and bool((half == line).all()) else None


def lines_of(mask: Array, step: Step) -> Array:
    """Return the lines of a tile (H W) that a step has led to, the first next to the border that was crossed."""
    lines = mask.T if step[1] else mask
    return lines[::-1] if sum(step) < 0 else lines


def image_of(lines: Array, step: Step) -> Array:
    """Return the tile (H W) that such lines are of."""
    lines = lines[::-1] if sum(step) < 0 else lines
    return lines.T if step[1] else lines
