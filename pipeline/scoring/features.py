"""Label-free features of a row: what is known of it without its label, by one function for OOF and for test rows.

Never the id, the fold, the row order or a label. The schema (names in order) depends on the task, on the number of
prediction columns, on whether there are several members, and on the number of image statistics, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.scoring.classification import EPS
from pipeline.store.files import Array, digest
from pipeline.tasks import Task

Features = tuple[Array, list[str]]
# Beyond as many columns the single ones are left out: sorted they say as much, and a learner of few rows drowns.
WIDE = 16
BINS = 32
# Rows whose neighbours are looked for at a time.
CHUNK = 8192


def label_free(
    task: Task, predictions: Array, spread: Array, distance: Array, statistics: Array
) -> tuple[Array, list[str]]:
    """Return the features (N F, float64) of rows and their names.

    `predictions` (M N P): one slab a member; `spread` (N,): sd over TTA views; `distance` (N,): to the nearest rows of
    the training set inside the model (see `in_model`); `statistics` (N S): of the image (see `image_statistics`).
    """
    slabs = predictions.astype(np.float64)
    mean = slabs.mean(0)
    columns = dict(_shape_of(task, mean))
    if mean.shape[1] <= WIDE:
        columns |= {f"p{c}": mean[:, c] for c in range(mean.shape[1])}
    if len(slabs) > 1:
        columns |= {"member_sd": slabs.std(0).mean(1)}
        if task.name != "regression":
            columns |= {"member_other": np.mean([(_label(task, s) != _label(task, mean)).mean(1) for s in slabs], 0)}
    columns |= {"tta_sd": spread, "distance": distance}
    columns |= {f"image{s}": statistics[:, s] for s in range(statistics.shape[1])}
    return np.column_stack(list(columns.values())).astype(np.float64), list(columns)


def schema(names: Sequence[str]) -> str:
    """Return the hash of feature names in their order: rows of another schema must never meet the same learner."""
    return digest(*names)


def in_model(query: Array, reference: Array, k: int, values: Array | None = None) -> tuple[Array, Array | None]:
    """Return the mean cosine distance (N,) of each query row to its k nearest reference rows, and their `values`.

    Both are embeddings (N F) of one model, since those of different models share no axes; a query row must not be
    among the references. `values` (R ...) of the reference rows, labels say, come back as N k ... of the neighbours.
    """
    from sklearn.neighbors import NearestNeighbors

    # Between vectors of length 1 the cosine distance is half of the squared Euclidean one, which needs no table of all.
    nearest = NearestNeighbors(n_neighbors=min(k, len(reference)), algorithm="brute").fit(_apart(reference, 0))
    chunks = [nearest.kneighbors(_apart(query[at : at + CHUNK], 1)) for at in range(0, len(query), CHUNK)]
    if not chunks:
        return np.zeros(0), None if values is None else values[np.zeros((0, nearest.n_neighbors), int)]
    away, index = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return (away.astype(np.float64) ** 2 / 2).mean(1), None if values is None else values[index]


def neighbours_say(query: Array, reference: Array, labels: Array, k: int) -> Array:
    """Return the mean of the labels (R P; NaN: unknown) of the k nearest reference rows of each query row (N P).

    As for `in_model` both are embeddings of one model; NaN where the labels of all of them are unknown.
    """
    from scipy.sparse import csr_matrix

    near = in_model(query, reference, k, np.arange(len(reference)))[1]
    assert near is not None
    ends = np.arange(len(query) + 1) * near.shape[1]
    which = csr_matrix((np.ones(near.size), near.ravel(), ends), (len(query), len(reference)))
    known = ~np.isnan(labels)
    count = which @ known.astype(np.float64)
    return np.where(count > 0, which @ np.where(known, labels, 0.0) / np.maximum(count, 1), np.nan)


def unit(x: Array) -> Array:
    """Return vectors (N F, floats) at length 1; those of length 0 stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1))


def _apart(x: Array, side: int) -> Array:
    """Return vectors (N F) at length 1 (N F+2); those of length 0 lie at right angles to all of the other side."""
    x, alone = unit(x.astype(np.float32)), np.zeros((len(x), 2), np.float32)
    alone[:, side] = ~x.any(1)
    return np.column_stack([x, alone])


def statistic_names(channels: int) -> list[str]:
    """Return what the columns of `image_statistics` are."""
    single = [f"mean of channel {c}" for c in range(min(channels, 3))] if channels > 1 else []
    return ["mean", "sd", "sharpness", "saturated", "entropy", *single]


def image_statistics(images: Array, chunk: int = 256) -> Array:
    """Return statistics (N S) of images (N H W C, uint8 or uint16) on the scale 0..1; read in chunks of rows.

    Mean, sd, sharpness (sd of the Laplacian of the channels' mean), share of pixels at either end of the scale,
    entropy (nats) of a histogram of 32 bins, and the means of at most three channels where there are several.
    """
    parts = [_statistics(np.asarray(images[start : start + chunk])) for start in range(0, len(images), chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, len(statistic_names(images.shape[3]))))


def _shape_of(task: Task, mean: Array) -> dict[str, Array]:
    """Return how sure a mean prediction (N P) is, apart from what it says."""
    if task.name == "multiclass":
        ordered = -np.sort(-mean, axis=1)
        top = {f"top{j + 1}": ordered[:, j] for j in range(min(3, mean.shape[1]))}
        return top | {"margin": ordered[:, 0] - ordered[:, 1], "entropy": _entropy(mean)}
    if task.probabilities:
        certain = np.abs(2 * mean - 1)
        doubt = _entropy(np.stack([mean, 1 - mean], 2)).mean(1)
        least = {} if task.name == "binary" else {"least_margin": certain.min(1), "labels": mean.sum(1)}
        return {"margin": certain.mean(1), "entropy": doubt} | least
    if task.name == "ordinal":
        # Untuned cuts lie halfway between grades, the first at one half.
        grade = mean[:, 0]
        return {"to_cut": np.abs(grade - np.maximum(np.floor(grade), 0) - 0.5)}
    return {}


def _label(task: Task, prediction: Array) -> Array:
    """Return untuned labels (N L) of a prediction."""
    if task.name == "multiclass":
        return np.asarray(prediction.argmax(1)[:, None])
    return np.maximum(np.rint(prediction), 0) if task.name == "ordinal" else np.asarray(prediction > 0.5)


def _entropy(p: Array) -> Array:
    p = np.clip(p, EPS, 1)
    return np.asarray(-(p * np.log(p)).sum(-1))


def _statistics(images: Array) -> Array:
    pixels = images.astype(np.float32) / np.iinfo(images.dtype).max
    grey = pixels.mean(3)
    rows = len(pixels)
    flat = pixels.reshape(rows, -1)
    middle = 4 * grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - middle
    sharpness = laplacian.reshape(rows, -1).std(1) if laplacian[0].size else np.zeros(rows)
    bins = np.minimum((flat * BINS).astype(np.int64), BINS - 1) + BINS * np.arange(rows)[:, None]
    shares = np.bincount(bins.ravel(), minlength=BINS * rows).reshape(rows, BINS) / flat.shape[1]
    parts = [flat.mean(1), flat.std(1), sharpness, ((flat == 0) | (flat == 1)).mean(1), _entropy(shares)]
    if pixels.shape[3] > 1:
        parts += [pixels[..., c].mean((1, 2)) for c in range(min(pixels.shape[3], 3))]
    return np.column_stack(parts).astype(np.float64)
