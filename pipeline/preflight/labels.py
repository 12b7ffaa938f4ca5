"""Do labels belong to their images? Permutation tests on cheap features, blind to any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding
from pipeline.preflight.material import Material
from pipeline.preflight.pixels import pixels
from pipeline.store.files import Array
from pipeline.tasks import Several, Task

ROWS, NEIGHBOURS, SHUFFLES, CELLS, BINS = 2000, 5, 199, 8, 8
MASKS, GRID = 300, 32
TURNED: dict[str, Callable[[Array], Array]] = {
    "transposed": lambda masks: masks.swapaxes(2, 3),
    "mirrored": lambda masks: masks[..., ::-1],
    "upside down": lambda masks: masks[..., ::-1, :],
}


def alignment(material: Material) -> Finding:
    """Ask whether labels (or masks) fit their images better than shuffled ones do."""
    return masks_fit(material) if material.masks else neighbours_agree(material)


def neighbours_agree(material: Material) -> Finding:
    """Compare the agreement of labels among look-alikes with that of shuffled labels."""
    job, rows = material.job, material.sample(ROWS)
    near = neighbours(cheap([pixels(material, row) for row in rows]), NEIGHBOURS)
    t = columns(job.task, job.table.y[material.places[rows]], len(job.table.classes))
    real, shuffled = shuffle_test(lambda order: agreement(t[order], near), len(rows), material.seed)
    words = f"look-alikes agree by {real:+.3f}, with shuffled labels {shuffled.mean():+.3f} +- {shuffled.std():.3f}"
    return judged_shuffle(real, shuffled, words, "labels")


def judged_shuffle(real: float, shuffled: Array, words: str, what: str) -> Finding:
    """Return the finding of a permutation test: one-sided, on the share of shuffles that do as well."""
    p = (1 + (shuffled >= real).sum()) / (1 + len(shuffled))
    advice = f"{what} look shuffled: do ids and rows belong together? (or what they tell is in no thumbnail)"
    return Finding("labels", OK if p <= 0.01 else LOOK if p <= 0.05 else BROKEN, f"{words} (p = {p:.3f})", advice)


def shuffle_test(statistic: Callable[[Array], float], n: int, seed: int) -> tuple[float, Array]:
    """Return a statistic of n rows in their own order, and in random ones (SHUFFLES)."""
    rng = np.random.default_rng(seed)
    return statistic(np.arange(n)), np.array([statistic(rng.permutation(n)) for _ in range(SHUFFLES)])


def agreement(t: Array, near: Array) -> float:
    """Return how well rows agree with their neighbours (n k): the mean product of columns t (n T), 1 where all do."""
    return float(np.einsum("nt,nkt->", t, t[near]) / near.shape[1] / max((t**2).sum(), 1e-12))


def neighbours(features: Array, k: int) -> Array:
    """Return the k rows (n k) that are nearest to each."""
    k = min(k, len(features) - 1)
    found = NearestNeighbors(n_neighbors=k + 1).fit(features).kneighbors(features, return_distance=False)
    # A row is among its own nearest, but where it has copies not always the first.
    return np.stack([others[others != row][:k] for row, others in enumerate(found)])


def columns(task: Task, y: Array, classes: int) -> Array:
    """Return targets as centred columns, together of variance 1 a target; values by their ranks, unknown ones 0."""
    if isinstance(task, Several):
        return np.concatenate([columns(p.task, p.of(y).reshape(len(y), -1), p.classes) for p in task.pieces], 1)
    if task.name == "multiclass" and y.shape[1] == 1:
        y = np.eye(classes)[y[:, 0].astype(int)]
    if task.name == "regression":
        y = np.where(np.isnan(y), np.nan, y.argsort(0).argsort(0))
    centred = y - np.nanmean(y, 0)
    return np.asarray(np.nan_to_num(centred / max(float(np.sqrt(np.nanmean(centred**2, 0).sum())), 1e-9)))


def cheap(images: Sequence[Array]) -> Array:
    """Return features (n F) of images (H W C): a thumbnail, mean and sd of each channel, edges by their direction."""
    small, moments, edges = [], [], []
    for image in images:
        x = scaled(image)
        small.append(shrunk(x, CELLS).ravel())
        moments.append(np.concatenate([x.mean((0, 1)), x.std((0, 1))]))
        edges.append(directions(shrunk(x.mean(2, keepdims=True), GRID)[:, :, 0]))
    blocks = [np.stack(block) for block in (small, moments, edges)]
    return np.concatenate([standard(block) / np.sqrt(block.shape[1]) for block in blocks], 1)


def shrunk(image: Array, side: int) -> Array:
    """Return an image (H W C) of any number of channels at side x side, by area."""
    each = [np.ascontiguousarray(image[:, :, c]) for c in range(image.shape[2])]
    return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in each], 2)


def standard(block: Array) -> Array:
    """Return columns with mean 0 and sd 1; constant ones 0."""
    return np.asarray((block - block.mean(0)) / np.maximum(block.std(0), 1e-6))


def scaled(image: Array) -> Array:
    """Return pixels as float32 in 0..1."""
    return np.ascontiguousarray(image, np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def directions(grey: Array) -> Array:
    """Return the histogram of edge directions in 4 x 4 cells, weighted by their strength (Dalal and Triggs 2005)."""
    down, across = np.gradient(grey)
    bins = ((np.arctan2(down, across) % np.pi) / np.pi * BINS).astype(int) % BINS
    side = GRID // 4
    cell = np.arange(GRID)[:, None] // side * 4 + np.arange(GRID) // side
    found = np.bincount((cell * BINS + bins).ravel(), np.hypot(down, across).ravel(), 16 * BINS)
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-6))


def masks_fit(material: Material) -> Finding:
    """Compare how well cheap features of pixels tell the mask with how well they tell that of another image."""
    rows = material.sample(MASKS)
    views = [material.plain[(0, int(row), n)][0] for n, row in enumerate(rows)]
    x = np.stack([local(scaled(view[:, :, : -material.masks])) for view in views])
    classes = len(material.job.table.classes)
    parts = [scaled(view[:, :, view.shape[2] - material.masks :][:, :, :classes]) for view in views]
    masks = np.stack([shrunk(part, GRID).transpose(2, 0, 1) for part in parts])
    told = teller(x)
    real, shuffled = shuffle_test(lambda order: told(masks[order]), len(rows), material.seed)
    words = f"pixels tell {real:.3f} of their masks, of those of other images {shuffled.mean():.3f}"
    turned = {name: told(turn(masks)) for name, turn in TURNED.items()}
    best = max(turned, key=lambda name: turned[name])
    if turned[best] > real + 5 * shuffled.std():
        advice = (
            f"look at masks.order, and at images and masks side by side: {best} they fit better ({turned[best]:.3f})"
        )
        return Finding("labels", BROKEN, words, advice)
    return judged_shuffle(real, shuffled, words, "masks")


def local(image: Array) -> Array:
    """Return features of pixels (GRID^2 F): value, surroundings, spread and edge of each channel, and a 1."""
    x = shrunk(image, GRID)
    around = gaussian_filter(x, (2, 2, 0))
    spread = np.sqrt(np.maximum(gaussian_filter(x**2, (2, 2, 0)) - around**2, 0))
    down, across = np.gradient(x, axis=(0, 1))
    parts = [x, x**2, around, spread, np.hypot(down, across), np.ones_like(x[:, :, :1])]
    return np.concatenate(parts, 2).reshape(GRID * GRID, -1)


def teller(x: Array) -> Callable[[Array], float]:
    """Return the share of the variance of masks (n C H W) that a linear regression on features (n P F) tells."""
    n, pixel, width = x.shape
    flat = x.reshape(n * pixel, width).astype(np.float64)
    inverse = np.linalg.pinv(flat.T @ flat, rcond=1e-8)

    def told(masks: Array) -> float:
        y = masks.reshape(n, masks.shape[1], pixel).transpose(0, 2, 1).reshape(n * pixel, -1).astype(np.float64)
        found = flat.T @ y
        total = ((y - y.mean(0)) ** 2).sum()
        return float(((found * (inverse @ found)).sum() - (y.mean(0) ** 2).sum() * len(y)) / max(total, 1e-12))

    return told
