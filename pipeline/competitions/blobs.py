"""The built-in competition of masks: fields of touching cells as under a microscope, cut into tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.store.files import Array

SIDE, ACROSS = 64, 3


def make(folder: Path, fields: int = 22, objects: bool = False, seed: int = 0) -> None:
    """Write `fields` fields of 3 x 3 grey tiles of 64 px for training and as many for test, in competition layout.

    `train.csv` holds a mask a tile, or with `objects` a row an object; `tiles.csv` says where each tile was cut. The
    test fields are others than those of training; whole ones of them are Public (30 %) or Private.
    """
    import cv2

    rng = np.random.default_rng(seed)
    names = [f"{n:04x}" for n in rng.permutation(2**16)[: 2 * fields * ACROSS**2]]
    rows, tiles = [], []
    for field in range(2 * fields):
        image, drawn = draw_field(np.random.default_rng([seed, field]))
        split = "train" if field < fields else "test"
        (folder / f"{split}_images").mkdir(parents=True, exist_ok=True)
        for at in range(ACROSS**2):
            top, left = (SIDE * place for place in divmod(at, ACROSS))
            i = names[field * ACROSS**2 + at]
            cv2.imwrite(str(folder / f"{split}_images" / f"{i}.png"), image[top : top + SIDE, left : left + SIDE])
            tiles.append({"id": i, "field": f"f{field:02d}", "row": at // ACROSS, "column": at % ACROSS})
            cells = runs(drawn[top : top + SIDE, left : left + SIDE], objects)
            rows += [{"id": i, "rle_mask": cell, "field": field} for cell in cells]
    table = pd.DataFrame(rows)
    # Tiles of a field stand apart in the tables, as they do where somebody else has cut them.
    table = table.sample(frac=1, random_state=seed).sort_values("id", kind="stable")
    hidden, blank = table[table["field"] >= fields], {"rle_mask": "1 1"}
    table[table["field"] < fields].drop(columns="field").to_csv(folder / "train.csv", index=False)
    sample = hidden.drop_duplicates("id").assign(**blank)
    sample.drop(columns="field").to_csv(folder / "sample_submission.csv", index=False)
    usage = np.where(hidden["field"] - fields < 0.3 * fields, "Public", "Private")
    hidden.drop(columns="field").assign(Usage=usage).to_csv(folder / "solution.csv", index=False)
    pd.DataFrame(tiles).sort_values("id").to_csv(folder / "tiles.csv", index=False)


def runs(drawn: Array, objects: bool) -> list[str]:
    """Return the RLE cells of a tile's objects (H W, numbered): of all as one mask, or each by itself ("": none)."""
    from pipeline.masks.rle import encode

    numbers = np.setdiff1d(np.unique(drawn), [0]).tolist()
    return [encode(drawn == number) for number in numbers] or [""] if objects else [encode(drawn > 0)]


def draw_field(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return a field (H W, uint8) and its objects (H W, numbered from 1; 0: none).

    Cells are ellipses that grow in clumps, each touching another, bright or hardly brighter than the background, which
    is uneven and grained. Hazy discs that lie out of focus are no objects.
    """
    from scipy.ndimage import gaussian_filter

    side = SIDE * ACROSS
    grain = [gaussian_filter(rng.normal(size=(side, side)), sigma) * sigma for sigma in (1.5, 6.0, 40.0)]
    light = 60 + 20 * grain[0] + 20 * grain[1] + 25 * grain[2]
    drawn = np.zeros((side, side), np.uint16)
    for _ in range(rng.integers(5, 8)):
        centre = rng.uniform(8, side - 8, 2)
        for _ in range(rng.integers(1, 6)):
            ellipse, reach = draw_ellipse(side, centre, rng)
            new = (ellipse < 1) & (drawn == 0)
            if np.count_nonzero(new) > 25:
                drawn[new] = drawn.max() + 1
                light += rng.uniform(14, 80) * np.where(new, 1 - 0.4 * ellipse, 0)
            turn = rng.uniform(0, 2 * np.pi)
            centre = centre + 1.7 * reach * np.array([np.sin(turn), np.cos(turn)])
    for _ in range(rng.integers(1, 4)):
        ellipse, _ = draw_ellipse(side, rng.uniform(0, side, 2), rng)
        light += gaussian_filter(np.where(ellipse < 1, rng.uniform(20, 45), 0), 3.0) * (drawn == 0)
    light = gaussian_filter(light, 0.8) + rng.normal(0, 1.5, light.shape)
    return np.clip(light, 0, 255).astype(np.uint8), drawn


def draw_ellipse(side: int, centre: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Return how far each pixel lies from the centre of an ellipse in its own radii (H W), and its mean radius."""
    radii, turn = rng.uniform(5, 12, 2), rng.uniform(0, np.pi)
    y, x = np.mgrid[:side, :side] - centre[:, None, None]
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return (along / radii[0]) ** 2 + (across / radii[1]) ** 2, float(radii.mean())
