"""Near copies of images: a perceptual hash of each, and all pairs that differ in a few bits, found without trying all.

The hash is pHash: the signs of the 64 lowest frequencies of a 32 x 32 thumbnail (Zauner 2010). To differ in d bits of
64 two hashes must agree in at least two of d + 2 bands, so only hashes with two equal bands are compared.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from pipeline.store.files import Array

SIDE, BITS = 32, 64
# Below this standard deviation (in grey levels of 255) a thumbnail shows nothing: its bits are noise.
FLAT = 2.0
# Thumbnails of one picture, saved again or slightly changed, correlate above this; others of the same hash do not.
ALIKE = 0.95


def perceptual_hash(thumbnails: Array) -> Array:
    """Return the hash (N, uint64) of grey thumbnails (N 32 32): brightness and contrast hardly change it."""
    from scipy.fft import dctn

    low = dctn(thumbnails.astype(np.float64), axes=(1, 2))[:, :8, :8].reshape(len(thumbnails), BITS)
    low[:, 0] = 0  # the mean
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def close_pairs(hashes: Array, most: int) -> Array:
    """Return all pairs (P 2, i < j) of hashes (N, uint64, no two equal) that differ in `most` bits or fewer."""
    edges = np.linspace(0, BITS, most + 3).astype(np.uint64)
    masks = [((1 << int(b)) - 1) ^ ((1 << int(a)) - 1) for a, b in pairwise(edges)]
    found = [np.empty((0, 2), np.int64)]
    for one, other in combinations(masks, 2):
        key = hashes & np.uint64(one | other)
        order = key.argsort(kind="stable")
        key, value = key[order], hashes[order]
        left = np.arange(len(key) - 1)
        for step in range(1, len(key)):
            left = left[left < len(key) - step]
            left = left[key[left] == key[left + step]]
            if not len(left):
                break
            near = left[np.bitwise_count(value[left] ^ value[left + step]) <= most]
            found.append(np.sort(np.column_stack([order[near], order[near + step]]), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def near_copies(thumbnails: Array, most: int) -> Array:
    """Return a number for each image (N, int; -1: unlike any other) that near copies share, transitively.

    Images are near copies where their hashes differ in `most` bits or fewer and their thumbnails correlate above
    `ALIKE`. Flat ones are left out: all blank images look the same.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    flat = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    spread = flat.std(1, keepdims=True)
    shown = np.flatnonzero(spread[:, 0] >= FLAT)
    flat = flat[shown] / spread[shown]
    values, kind = np.unique(perceptual_hash(thumbnails[shown]), return_inverse=True)
    pairs = rows_of(close_pairs(values, most), kind)
    alike = np.einsum("ij,ij->i", flat[pairs[:, 0]], flat[pairs[:, 1]]) / flat.shape[1] > ALIKE
    ones = np.ones(alike.sum(), bool)
    graph = coo_matrix((ones, (pairs[alike, 0], pairs[alike, 1])), (len(shown), len(shown)))
    _, component = connected_components(graph, directed=False)
    lonely = np.bincount(component, minlength=1)[component] == 1
    numbers = np.full(len(thumbnails), -1)
    numbers[shown] = np.where(lonely, -1, component)
    return numbers


def rows_of(pairs: Array, kind: Array) -> Array:
    """Return the pairs (P 2) of first rows of two kinds, and of every row with the first of its own kind."""
    first = np.unique(kind, return_index=True)[1]
    same = np.column_stack([first[kind], np.arange(len(kind))])
    return np.concatenate([same[same[:, 0] != same[:, 1]], first[pairs]])
