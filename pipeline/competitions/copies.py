"""Images that are copies of each other: the same bytes, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.forecast.shift import likeness
from pipeline.images.near import each, thumbnails
from pipeline.scoring import clusters
from pipeline.scoring.duplicates import near_copies
from pipeline.scoring.split import union
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_file
from pipeline.store.table import combined, files_of

# Paths and content hashes of images -> what they look like (N D), of length 1.
Encode = Callable[[Array, Array], Array]


def hash_images(data: Path, paths: Array, channel: list[str] | None = None) -> Array:
    """Return the content hash of every row's image files; an empty file is refused by name."""

    def one(path: str) -> str:
        if not path:
            return ""
        if (data / path).stat().st_size == 0:
            raise UserError(f"image {data / path} is empty (0 bytes): fetch it again or drop its row")
        return digest_file(data / path)

    return np.array(each(lambda row: combined([one(file) for file in files_of(row, channel)]), paths))


def find_near(data: Path, paths: Array, channel: list[str] | None, most: int) -> Array:
    """Return a key (N, text; "": none) that near copies share: hashes that differ in `most` bits or fewer; 0: none.

    Of a row of several files the first is looked at.
    """
    if most == 0:
        return np.full(len(paths), "")
    numbers = near_copies(thumbnails(data, paths, channel), most)
    return np.where(numbers < 0, "", numbers.astype(str))


def small_pictures(data: Path, paths: Array, channel: list[str] | None) -> Array:
    """Return small pictures of all files of rows (N F SIDE SIDE 3, in 0..1); what cannot be read is black."""
    import cv2

    size = (clusters.SIDE, clusters.SIDE)

    def one(file: str) -> Array:
        image = cv2.imread(str(data / file), cv2.IMREAD_COLOR) if file else None
        small = np.zeros((*size, 3)) if image is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(small / 255, np.float32)

    return np.stack(each(lambda row: np.stack([one(f) for f in files_of(row, channel)]), paths))


def find_alike(
    config: Competition, data: Path, paths: Array, digests: Array, encode: Encode | None
) -> tuple[Array, Array, Array]:
    """Return a key (N, text; "": none) that near copies and look-alikes share, what rows look like (N D), their tones.

    Looks are what `encode` says, or small pictures; tones (N S) the brightness and contrast of channels, which these
    may leave out. D and S are 0 where nobody asks.
    """
    folds, channel, like = config.folds, config.images.channel, config.folds.holdout_like == "test"
    near, x = find_near(data, paths, channel, folds.near), np.zeros((len(paths), 0), np.float32)
    tones, asked = x, folds.alike or folds.clusters or like
    if asked and encode:
        x = encode(paths, digests)
    if like or (asked and not encode):
        small = small_pictures(data, paths, channel)
        x = x if encode else clusters.embed(small)
        tones = np.concatenate([small.mean((2, 3)), small.std((2, 3))], 1).reshape(len(small), -1)
    if folds.alike:
        numbers = clusters.alike(x, folds.alike)
        kin = np.where(numbers < 0, "", numbers.astype(str))
        near = np.where((near == "") & (kin == ""), "", union(near, kin).astype(str))
    return near, x, tones


def like_test(x: Array, tones: Array, train: Array, test: Array, units: Array, seed: int) -> Array:
    """Return how much the labelled rows (a mask, with their units) look like test rows (a mask), see `find_alike`."""
    if test.sum() < 2:
        raise UserError('folds.holdout_like = "test" needs test rows, and there are none: take it out')
    rows = np.r_[np.flatnonzero(train), np.flatnonzero(test)]
    whole = np.r_[units, units.max() + 1 + np.arange(test.sum())]
    return likeness(x[rows], tones[rows], test[rows], whole, seed)[: len(units)]


def with_clusters(strata: Array, x: Array, count: int, seed: int) -> Array:
    """Return strata (N S) and beside them (0/1) which of `count` clusters (0: none) a row is of by its looks (N D)."""
    if not count:
        return strata
    of_row = clusters.clusters(x, count, seed)
    return np.column_stack([strata, np.eye(int(of_row.max()) + 1, dtype=strata.dtype)[of_row]])
