"""Run-length cells: ours against the numpy kernels that are copied from notebook to notebook (and pycocotools where it is)."""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.masks.rle import decode, encode


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


def coco():
    try:
        from pycocotools import mask as tool
    except ImportError:
        return {}, {}
    return (
        {"pycocotools": lambda m: tool.encode(np.asfortranarray(m, np.uint8))},
        {"pycocotools": lambda m: tool.decode(tool.encode(np.asfortranarray(m, np.uint8)))},
    )


def timed(functions, runs):
    """Median milliseconds of each, taken in turn."""
    took = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            took[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in took.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    cpu = next((s[13:] for s in Path("/proc/cpuinfo").read_text().split("\n") if s[:10] == "model name"), "unknown CPU")
    print(f"{cpu}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, numpy {np.__version__}")
    print(
        f"medians of {args.runs} alternating runs, milliseconds, by columns; a run is text on our side, bytes on coco's\n"
    )
    encoders, decoders = coco()
    for side in (101, 2448):
        noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(side, side)), max(2, side / 50))
        mask = noise > noise.std() * 0.5
        cell = encode(mask)
        assert cell == kernel_encode(mask)
        assert (decode(cell, side, side) == mask).all()
        assert (kernel_decode(cell, (side, side)) == mask).all()
        ways = {
            "encode": {"ours": lambda m=mask: encode(m), "kernel": lambda m=mask: kernel_encode(m)}
            | {name: (lambda m=mask, f=f: f(m)) for name, f in encoders.items()},
            "decode": {
                "ours": lambda c=cell, s=side: decode(c, s, s),
                "kernel": lambda c=cell, s=side: kernel_decode(c, (s, s)),
            },
        }
        if decoders:
            from pycocotools import mask as tool

            packed = tool.encode(np.asfortranarray(mask, np.uint8))
            ways["decode"]["pycocotools"] = lambda p=packed: tool.decode(p)
        for what, functions in ways.items():
            took = timed(functions, args.runs)
            ratios = ", ".join(
                f"{name} {ms:.3f} ({ms / took['ours']:.1f}x)" for name, ms in took.items() if name != "ours"
            )
            print(f"{side} x {side}, {len(cell.split()) // 2} runs, {what}: ours {took['ours']:.3f}; {ratios}")


if __name__ == "__main__":
    main()
