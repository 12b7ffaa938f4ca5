"""Run-length cells: ours against the numpy kernels that are copied from notebook to notebook, and pycocotools."""

from dataclasses import replace

import numpy as np
from bench import main, race
from pycocotools import mask as coco
from scipy import ndimage

from pipeline.masks.rle import decode, encode

SIDE, TURNS = 2448, 30


def kernel_encode(mask):
    pixels = np.concatenate([[0], mask.flatten(order="F"), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def kernel_decode(cell, shape):
    s = cell.split()
    starts, lengths = (np.asarray(x, dtype=int) for x in (s[0:][::2], s[1:][::2]))
    starts -= 1
    img = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    for low, high in zip(starts, starts + lengths, strict=True):
        img[low:high] = 1
    return img.reshape(shape, order="F")


def rows():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)), SIDE / 50)
    mask = noise > noise.std() * 0.5
    cell, packed = encode(mask), coco.encode(np.asfortranarray(mask, np.uint8))
    size, runs = f"{SIDE} x {SIDE}, {len(cell.split()) // 2} runs", "the usual numpy kernel"
    row, mine, his = race(f"RLE, write {size}", runs, lambda: encode(mask), lambda: kernel_encode(mask), 3, TURNS)
    yield replace(row, good=mine == his, note="the same text")
    row, mine, his = race(
        f"RLE, read {size}", runs, lambda: decode(cell, SIDE, SIDE), lambda: kernel_decode(cell, mask.shape), 5, TURNS
    )
    yield replace(row, good=bool((mine == his).all()), note="the same mask; ours refuses what cannot be")
    row, mine, _ = race(
        f"RLE, write {size}",
        "pycocotools",
        lambda: encode(mask),
        lambda: coco.encode(np.asfortranarray(mask, np.uint8)),
        1,
        TURNS,
    )
    yield replace(row, good=mine == cell, note="ours is text, the peer's its own bytes")
    row, mine, his = race(
        f"RLE, read {size}", "pycocotools", lambda: decode(cell, SIDE, SIDE), lambda: coco.decode(packed), 1, TURNS
    )
    yield replace(row, good=bool((mine == his).all()), note="the same mask; ours is text, the peer's its own bytes")


if __name__ == "__main__":
    main(rows)
