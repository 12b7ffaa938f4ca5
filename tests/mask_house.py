"""A toy competition with masks: bright rectangles on a dim ground, some images empty, two sizes of image."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

TRAIN = """stage = "train"
epochs = 8
batch_size = 8
[model]
name = "small_unet"
options = { widths = [8, 16] }
[image]
size = 16
[augment]
recipe = "none"
[optim]
lr = 1e-2
"""


def rle(mask, order="column"):
    """Encode a mask by the book: pixel by pixel."""
    flat = np.asarray(mask, bool).ravel("F" if order == "column" else "C").tolist()
    runs, start = [], None
    for at, bit in enumerate([*flat, False], 1):
        if bit and start is None:
            start = at
        elif not bit and start is not None:
            runs += [start, at - start]
            start = None
    return " ".join(map(str, runs))


def picture(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a grey image and its mask."""
    image, mask = rng.integers(0, 60, size), np.zeros(size, int)
    if rng.random() > 0.25:
        for _ in range(int(rng.integers(1, 3))):
            top, left = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
            mask[top : top + rng.integers(4, 7), left : left + rng.integers(4, 7)] = 1
    return (image + 150 * mask).astype(np.uint8), mask


def make_masks(root: Path, name: str = "toy", n_train: int = 30, n_test: int = 15, extra: str = "") -> Path:
    """Write data, contract and configs of the competition; return its data folder."""
    rng = np.random.default_rng(3)
    data, rows = root / "data" / name, []
    for split in ("train", "test"):
        (data / split).mkdir(parents=True)
    for j in range(n_train + n_test):
        image, mask = picture(rng, (16, 20) if j % 3 else (16, 16))
        cv2.imwrite(str(data / ("train" if j < n_train else "test") / f"i{j:03d}.png"), image)
        rows.append({"id": f"i{j:03d}", "rle": rle(mask)})
    frame = pd.DataFrame(rows)
    frame[:n_train].to_csv(data / "train.csv", index=False)
    hidden = frame[n_train:]
    hidden.assign(rle="1 1").to_csv(data / "sample_submission.csv", index=False)
    usage = np.where(np.arange(n_test) % 3 == 0, "Public", "Private")
    hidden.assign(Usage=usage).to_csv(data / "solution.csv", index=False)
    configs = root / "configs" / name
    configs.mkdir(parents=True)
    (configs / "competition.toml").write_text(
        'task = "segmentation"\nmetric = "iou"\nid = "id"\ntarget = "rle"\n'
        f'[images]\npattern = "{{split}}/{{id}}.png"\nchannels = "grey"\n[folds]\nn = 3\n{extra}'
    )
    (configs / "a.toml").write_text(TRAIN)
    (configs / "b.toml").write_text('base = "a"\nseed = 1\nepochs = 6\n')
    (configs / "final.toml").write_text('stage = "lb"\nrun = "blend"\n')
    (configs / "all.toml").write_text('stage = "full"\nrun = "blend"\nseeds = 1\n')
    (configs / "blend.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\n')
    return data
