"""Images that look alike: small pictures of them compared by correlation, joined within a distance, or clustered.

Nobody compares all pairs: rows lie in about sqrt(N) / 2 cells around rows drawn at random, and each looks only into
the nearest few cells, so that the work grows as N^1.5. Up to 600 rows that is a search through all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.store.files import Array

# The side of the small pictures: of 12 x 12 pixels the colours and the composition are left.
SIDE = 12
# Below this standard deviation, as a share of the full scale, a picture shows nothing: what is left of it is noise.
FLAT = 2 / 255
# How many cells a row looks into, and how many rows look at a time.
CELLS, CHUNK = 12, 4096
COMPONENTS, STARTS = 32, 3


def shrink(images: Array) -> Array:
    """Return small pictures (N SIDE SIDE C, float32 in 0..1) of images (N H W C): means over areas."""
    scale = np.iinfo(images.dtype).max if images.dtype.kind == "u" else 1
    down, across = (areas(side) for side in images.shape[1:3])
    rows = np.einsum("ah,nhwc->nawc", down, images.astype(np.float32) / scale, optimize=True)
    return np.asarray(np.einsum("bw,nawc->nabc", across, rows, optimize=True), np.float32)


def areas(side: int) -> Array:
    """Return what share of each pixel of a side of SIDE (rows) lies in each of `side` pixels (columns)."""
    edges = np.arange(SIDE + 1) * side / SIDE
    pixel = np.arange(side)
    shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(shared, 0) * SIDE / side, np.float32)


def embed(pictures: Array) -> Array:
    """Return vectors (N D) of length 1 whose products are the correlations of pictures (N ...); flat ones are 0."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    shown = length >= FLAT * np.sqrt(flat.shape[1])
    return np.where(shown, flat / np.maximum(length, 1e-12), 0)


def alike(x: Array, distance: float, seed: int = 0) -> Array:
    """Return a number for each vector (N D, of length 1) that those within a cosine distance share, transitively.

    (N, int); -1: unlike any other, as vectors of length 0 are.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    shown = np.flatnonzero(x.any(1))
    group, rows = np.arange(len(shown)), x[shown]
    for one, other in close_pairs(rows, distance, seed):
        pairs = coo_matrix((np.ones(len(one), bool), (group[one], group[other])), (len(rows), len(rows)))
        group = connected_components(pairs, directed=False)[1][group]
    numbers = np.full(len(x), -1)
    numbers[shown] = np.where(np.bincount(group, minlength=1)[group] == 1, -1, group)
    return numbers


def close_pairs(x: Array, distance: float, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of rows (N D) within a cosine distance, nearly all there are, cell by cell."""
    if not (n := len(x)):
        return
    cells = max(1, round(n**0.5 / 2))
    centres, looks = x[np.random.default_rng(seed).choice(n, cells, replace=False)], min(CELLS, cells)
    near = np.concatenate(
        [np.argsort(-(x[at : at + CHUNK] @ centres.T), axis=1)[:, :looks] for at in range(0, n, CHUNK)]
    )
    for cell in range(cells):
        inside, lookers = np.flatnonzero(near[:, 0] == cell), np.flatnonzero((near == cell).any(1))
        for at in range(0, len(lookers), CHUNK):
            mine = lookers[at : at + CHUNK]
            one, other = np.nonzero(x[mine] @ x[inside].T >= 1 - distance)
            yield mine[one], inside[other]


def clusters(x: Array, count: int, seed: int) -> Array:
    """Return the cluster (N, int, from 0) of each vector (N D): k-means on principal components."""
    from sklearn.cluster import KMeans

    few = components(x)
    count = min(count, len(np.unique(few, axis=0)))  # scikit-learn warns of more clusters than points
    return np.asarray(KMeans(count, n_init=STARTS, random_state=seed).fit_predict(few), np.int64)


def components(x: Array) -> Array:
    """Return the principal components (N, at most COMPONENTS) of vectors (N D)."""
    centred = x.astype(np.float64) - x.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :COMPONENTS])
