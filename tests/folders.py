"""Competition folders as users bring them."""

import cv2
import numpy as np

RNG = np.random.default_rng(3)
IDS = [f"{value:08x}" for value in RNG.choice(2**32, 200, replace=False)]


def picture(path, channels=3, size=16, dtype=np.uint8):
    """Write one image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size) if channels == 1 else (size, size, channels)
    image = RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        assert cv2.imwrite(str(path), image)


def table(path, header, rows, sign=",", end="\n", bom=False, quote=False):
    """Write a table in some dialect."""
    cells = [header, *rows]
    lines = [sign.join(f'"{c}"' if quote else str(c) for c in row) for row in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + (end.join(lines) + end).encode())


def competition(
    root, labels, *, image="{split}/{id}.png", header=("id", "label"), ids=IDS, test=30, blank="a", ending="", **dialect
):
    """Write a folder: `labels` is one cell, or several, a train row; `image` may be a list of paths a row."""
    labels = [label if isinstance(label, tuple) else (label,) for label in labels]
    blank = blank if isinstance(blank, tuple) else (blank,) * (len(header) - 1)
    train, rest = ids[: len(labels)], ids[len(labels) : len(labels) + test]
    for split, names in (("train", train), ("test", rest)):
        for i in names:
            for pattern in [image] if isinstance(image, str) else image:
                picture(root / pattern.format(split=split, id=i, a=i[:2], b=i[2:4]))
    table(root / "train.csv", header, [(i + ending, *label) for i, label in zip(train, labels, strict=True)], **dialect)
    table(root / "sample_submission.csv", header, [(i + ending, *blank) for i in rest], **dialect)
    return root
