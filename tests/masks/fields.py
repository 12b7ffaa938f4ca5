"""Fields cut into tiles and shuffled."""

import numpy as np
from scipy import ndimage


def cut_fields(rng, count, side, rows=(1, 4), columns=(1, 4), channels=1, noise=0.0, smooth=4.0):
    """Tiles of smooth random fields of up to 4 x 4 tiles; see `cut`."""
    fields = []
    for _ in range(count):
        shape = side * rng.integers(rows[0], rows[1] + 1), side * rng.integers(columns[0], columns[1] + 1), channels
        image = ndimage.gaussian_filter(rng.normal(size=shape), (smooth, smooth, 0))
        fields.append(128 + 40 * image / image.std() + noise * rng.normal(size=shape))
    return cut(fields, side, rng)


def cut(fields, side, rng):
    """Tiles (N side side channels uint8, shuffled), their field (N) and their place in it (N 2)."""
    tiles, field, place = [], [], []
    for f, image in enumerate(fields):
        for r in range(image.shape[0] // side):
            for c in range(image.shape[1] // side):
                tiles.append(image[r * side : (r + 1) * side, c * side : (c + 1) * side])
                field.append(f)
                place.append((r, c))
    order = rng.permutation(len(tiles))
    return np.clip(np.array(tiles), 0, 255).astype(np.uint8)[order], np.array(field)[order], np.array(place)[order]


def touching(field, place):
    """The true links: (left or upper tile, other tile, down, right)."""
    where = {(f, r, c): i for i, (f, (r, c)) in enumerate(zip(field.tolist(), place.tolist(), strict=True))}
    return {
        (i, where[f, r + down, c + right], down, right)
        for (f, r, c), i in where.items()
        for down, right in ((0, 1), (1, 0))
        if (f, r + down, c + right) in where
    }


def score(found, true):
    """Precision and recall of links."""
    mine = {(*pair, *step) for pair, step in zip(found.pairs.tolist(), found.steps.tolist(), strict=True)}
    return len(mine & true) / max(len(mine), 1), len(mine & true) / max(len(true), 1)
