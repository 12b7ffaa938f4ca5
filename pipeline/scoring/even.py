"""Spread rows, or units of several rows, evenly over folds: deal what is alike, place the rest, mend by swaps.

Rows (or units) of one kind - the same labels - can be exchanged, so whole rounds of n of them are dealt at once and
leave every count exactly even. What is left is placed rarest label first, n at a time, each of the n in another fold,
where that disturbs the counts least (iterative stratification, Sechidis 2011, by blocks). At last the label that is
furthest from even is mended by the best exchange of two rows, until no exchange helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from pipeline.store.files import Array

# Rows on either side of which an exchange is sought, and those that are tried with each of the other side.
SAMPLE, LIKELY = 2048, 4
# So few rows are spread several times unless the first is as even as can be, and the most even split is taken.
SMALL, TRIES = 5000, 4


def even(labels: Any, n: int, seed: int, sizes: Array | None = None) -> Array:
    """Return a fold 0..n-1 for each row (or unit) of `labels` (N S, sparse, whole numbers).

    Fold sizes differ by one at most. With `sizes` (N,) a row of `labels` counts the labels of a unit of so many rows:
    then sizes and labels come as near to even as whole units allow.
    """
    rng = np.random.default_rng(seed)
    ones = np.ones(labels.shape[0]) if sizes is None else sizes.astype(np.float64)
    folds, rest = deal(labels, ones, n, rng, reserve=0 if sizes is None else 2)
    if len(rest):
        # Size is the last label, which every row has.
        counts = sparse.hstack([labels[rest], ones[rest, None]], format="csr", dtype=np.float64)
        counts.sort_indices()
        best, folds[rest] = spread(counts, n, rng, whole=sizes is not None)
        for _ in range(TRIES - 1 if len(rest) <= SMALL else 0):
            if best < 1e-9:
                break
            error, found = spread(counts, n, rng, whole=sizes is not None)
            if error < best:
                best, folds[rest] = error, found
    return folds


def spread(counts: Any, n: int, rng: np.random.Generator, whole: bool) -> tuple[float, Array]:
    """Place and mend rows of which no n are alike (units, where `whole`); return how uneven they are, and folds.

    The former is the sum over labels and folds of (count - mean)^2 / total, less what rounding makes it at least.
    """
    totals = np.asarray(counts.sum(0)).ravel()
    order = by_size(counts, rng) if whole else by_rarity(counts, totals, rng)
    # A row too many weighs more where there are few: by 1 / total all labels meet their rounding bound, by 1 only most.
    weights = 1 / np.maximum(totals, 1)
    placed = place(counts[order], n, weights)
    error = mend(counts[order], placed, n, weights, rng, moves=whole)
    folds = np.empty(len(order), np.int64)
    folds[order] = rng.permutation(n)[placed]
    rest = totals % n
    return error - float(weights @ (rest * (n - rest) / n)), folds


def deal(labels: Any, sizes: Array, n: int, rng: np.random.Generator, reserve: int) -> tuple[Array, Array]:
    """Deal whole rounds of n alike rows; return the folds (-1: not dealt) and the rows left, at random among alike.

    `reserve` rounds of each kind are kept back, and more where a unit is so large that others must make room for it.
    """
    rows, draw = len(sizes), rng.integers(1, 2**63, labels.shape[1] + 1, np.uint64)
    bits = np.uint64(max(rows - 1, 1).bit_length())
    whole = sparse.csr_matrix((labels.data.astype(np.uint64), labels.indices, labels.indptr), labels.shape)
    hashes = whole @ draw[1:] + draw[0] * sizes.astype(np.uint64)
    order = rng.permutation(rows)
    # The low bits number the rows: no two keys are equal, so that any sort gives the same order, and tells it.
    key = np.sort((hashes[order] >> bits << bits) | np.arange(rows, dtype=np.uint64))
    row = order[(key & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)]
    start = np.flatnonzero(np.r_[True, np.diff(key >> bits) != 0])
    count = np.diff(np.r_[start, rows])
    place_in_kind = np.arange(rows) - np.repeat(start, count)
    while True:
        rounds = np.maximum(count // n - reserve, 0)
        dealt = place_in_kind < np.repeat(rounds * n, count)
        if not reserve or not dealt.any() or sizes[row[~dealt]].sum() >= n * sizes.max():
            break
        reserve *= 4
    folds = np.full(rows, -1)
    folds[row[dealt]] = place_in_kind[dealt] % n
    return folds, row[~dealt]


def by_rarity(counts: Any, totals: Array, rng: np.random.Generator) -> Array:
    """Return the order in which rows are placed: those with the rarest label first, at random among these."""
    rank = totals.argsort(kind="stable").argsort()
    rarest = np.minimum.reduceat(rank[counts.indices], counts.indptr[:-1])
    return np.lexsort((rng.random(len(rarest)), rarest))


def by_size(counts: Any, rng: np.random.Generator) -> Array:
    """Return the order in which units are placed: large ones first, at random among those of like size."""
    sizes = last(counts)
    return np.lexsort((rng.random(len(sizes)), -np.floor(2 * np.log2(sizes))))


def last(counts: Any) -> Array:
    """Return the last label of every row, its size."""
    return np.asarray(counts.data[counts.indptr[1:] - 1])


def place(counts: Any, n: int, weights: Array) -> Array:
    """Place rows in order, n at a time in n folds, so that labels already plenty in a fold do not come to it again.

    While folds differ by more than the largest of the n units, each goes by itself where there is most room.
    """
    pointers, columns, values = counts.indptr.tolist(), counts.indices.astype(np.int64), counts.data
    weighted, lengths, starts = values * weights[columns], np.diff(counts.indptr), counts.indptr[:-1]
    sizes = last(counts) * weights[-1]
    filled, folds, first = np.zeros((counts.shape[1], n)), np.empty(len(lengths), np.int64), 0
    flat, ones = filled.reshape(-1), bool((values == 1).all())
    alike = bool((sizes == sizes[0]).all())
    while first < len(folds):
        alone = not alike and np.ptp(filled[-1]) > sizes[first : first + n].max() * (1 + 1e-9)
        end = min(first + (1 if alone else n), len(folds))
        low, high = pointers[first], pointers[end]
        here = columns[low:high]
        there = filled.take(here, 0)
        # The sum over labels and folds of weight x count^2 grows by twice this, and by the same in every fold.
        cost = np.add.reduceat(there if ones else there * values[low:high, None], starts[first:end] - low)
        best = linear_sum_assignment(cost)[1]
        # One index is half as slow as two; no cell comes twice.
        flat[here * n + best.repeat(lengths[first:end])] += weighted[low:high]
        folds[first:end], first = best, end
    return folds


def mend(counts: Any, folds: Array, n: int, weights: Array, rng: np.random.Generator, moves: bool) -> float:
    """Exchange rows between folds while that evens the most uneven label; with `moves`, move single units too.

    Return how uneven the folds are: the sum over labels and folds of weight x (count - mean)^2.
    """
    where = sparse.csr_matrix((np.ones(len(folds)), folds, np.arange(len(folds) + 1)), shape=(len(folds), n))
    filled, roots = np.asarray((counts.T @ where).todense()), np.sqrt(weights)
    # The last row is nothing at all: to exchange a unit for it is to move the unit.
    counts = sparse.vstack([counts, sparse.csr_matrix((1, counts.shape[1]))], format="csr")
    scaled = sparse.csr_matrix((counts.data * roots[counts.indices], counts.indices, counts.indptr), counts.shape)
    by_label, norms, unsettled = counts.tocsc(), scaled.power(2) @ np.ones(len(roots)), weights > 0
    while True:
        gaps = np.ptp(filled, axis=1)
        gaps = np.where(unsettled & (gaps > 1), gaps * roots, 0)
        label = int(gaps.argmax())
        if gaps[label] == 0:
            return float((weights @ (filled - filled.mean(1, keepdims=True)) ** 2).sum())
        more, less = int(filled[label].argmax()), int(filled[label].argmin())
        givers = by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]
        givers, takers = sample(givers[folds[givers] == more], rng), sample(np.flatnonzero(folds == less), rng)
        if moves:
            givers, takers = np.append(givers, len(folds)), np.append(takers, len(folds))
        slope = roots * (filled[:, more] - filled[:, less])
        pair = exchange(scaled, norms, slope, givers, takers, rng if moves else None)
        if pair is None:
            unsettled[label] = False
            continue
        for row, source, target in ((pair[0], more, less), (pair[1], less, more)):
            part = slice(counts.indptr[row], counts.indptr[row + 1])
            filled[counts.indices[part], source] -= counts.data[part]
            filled[counts.indices[part], target] += counts.data[part]
            if row < len(folds):
                folds[row] = target


def sample(rows: Array, rng: np.random.Generator) -> Array:
    """Return no more than `SAMPLE` of the rows."""
    return rows if len(rows) <= SAMPLE else rows[rng.integers(len(rows), size=SAMPLE)]


def exchange(
    scaled: Any, norms: Array, slope: Array, givers: Array, takers: Array, rng: np.random.Generator | None
) -> tuple[int, int] | None:
    """Return the giver and the taker whose exchange evens the folds most, None where none does.

    With gain = row . slope, exchanging i for j lowers the sum of weight x count^2 by 2 (gain_i - gain_j - |i - j|^2).
    The givers that alone would help most are tried; of units (`rng`) some at random too: a large one may be too large.
    """
    if not len(givers) or not len(takers):
        return None
    alone = scaled[givers] @ slope - norms[givers]
    tried = first_best(alone)
    if rng is not None:
        tried = np.append(tried, rng.integers(len(givers), size=LIKELY))
    others = scaled[takers]
    cross = others @ scaled[givers[tried]].toarray().T
    better = alone[tried] - (others @ slope + norms[takers])[:, None] + 2 * cross
    j, i = divmod(int(better.argmax()), len(tried))
    return (int(givers[tried[i]]), int(takers[j])) if better[j, i] > 1e-9 else None


def first_best(values: Array) -> Array:
    """Return the places of the `LIKELY` largest values; of ties the first, whatever the machine."""
    if len(values) <= LIKELY:
        return np.arange(len(values))
    left, found = values.copy(), []
    for _ in range(LIKELY):
        found.append(int(left.argmax()))
        left[found[-1]] = -np.inf
    return np.array(found)
