"""The precision of TGS salt at many thresholds: ours against the vectorised kernel, image by image and threshold by threshold."""

from dataclasses import replace

import numpy as np
from bench import main, race
from scipy import ndimage

from pipeline.masks.metrics import precision_of
from pipeline.masks.sweep import sweep

IMAGES, SIDE = 2000, 101
THRESHOLDS = np.linspace(0.3, 0.7, 31).tolist()


def drawn():
    """Return maps (N H W, float16 as on the shelf) and true masks; every third image is empty."""
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, IMAGES, SIDE, SIDE)).astype(np.float32), (0, 0, 8, 8))
    fields /= fields.std()
    truth = (fields[0] > 0.3) & (np.arange(IMAGES) % 3 > 0)[:, None, None]
    said = 2 * (2.0 * truth - 1) + 1.5 * fields[1]
    return (1 / (1 + np.exp(-said))).astype(np.float16), truth


def ours(maps, truth):
    both, right, guess = np.moveaxis(sweep(maps, truth, THRESHOLDS), 2, 0)
    return precision_of(both, right, guess).mean(0)


def iou_metric(truth, guess):
    """The vectorised kernel: the IoU of a pair, 1 where both are empty, and the share of the thresholds that it passes."""
    both, either = np.logical_and(truth, guess).sum(), np.logical_or(truth, guess).sum()
    return np.mean((both / either if either else 1.0) > np.arange(10, 20) / 20)


def kernel(maps, truth):
    return np.array([np.mean([iou_metric(t, p > cut) for t, p in zip(truth, maps, strict=True)]) for cut in THRESHOLDS])


def rows():
    maps, truth = drawn()
    wide = maps.astype(np.float32)
    row, mine, his = race(
        f"TGS precision at {len(THRESHOLDS)} thresholds, {IMAGES} masks of {SIDE} x {SIDE}",
        "the vectorised kernel",
        lambda: ours(maps, truth),
        lambda: kernel(wide, truth),
        40,
        before=lambda: (maps.view(np.uint16).sum(), wide.sum(), truth.sum()),
    )
    off = np.abs(mine - his).max()
    yield replace(
        row,
        good=bool(off < 1e-12),
        note=f"largest difference {off:.1g}; maps are float16 as stored, the kernel's float32",
    )


if __name__ == "__main__":
    main(rows)
