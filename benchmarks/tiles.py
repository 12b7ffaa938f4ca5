"""Peak memory and seconds of a tiled prediction of one large image, from pixels to the shelf.

    python benchmarks/tiles.py [side] [classes] [tile] [batch]

Defaults: 2448 x 2448 and 7 classes (DeepGlobe land cover), a small U-Net, tiles of 512, half of each overlapping.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.images.ragged import Ragged, Stretch
from pipeline.masks.maps import layout, write_flat
from pipeline.nets.machine import Machine
from pipeline.nets.mask_nets import Extras, build_masks
from pipeline.training.mask_predict import Look, stretches


def megabytes() -> float:
    """Return the largest memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(side: int = 2448, classes: int = 7, tile: int = 512, batch: int = 1) -> None:
    bare = megabytes()
    machine = Machine("cpu", "fp32", 1)
    machine.prepare()
    network = build_masks(
        "small_unet", encoder="", weights="none", options={"widths": [8, 16, 32, 64]}, channels=3, size=(tile, tile),
        classes=classes, extra=0, presence=False, sizes=0, deep=False, extras=Extras(),
    )  # fmt: skip
    sizes = np.array([[side, side]])
    plan = layout(sizes, classes)
    look = Look(True, "tiles", (tile, tile), batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        flat = np.lib.format.open_memmap(Path(folder) / "image.npy", "w+", np.uint8, (side * side * 3,))
        images = Ragged([Stretch(flat, sizes, 3)])
        list(stretches(network, Ragged([Stretch(flat, np.array([[tile, tile]]), 3)]), np.arange(1),
                       np.array([[tile, tile]]), look, machine))  # fmt: skip
        before, started = megabytes(), time.perf_counter()
        path = Path(folder) / "maps.npy"
        write_flat(path, stretches(network, images, np.arange(1), plan.sizes, look, machine), plan.total)
        took, after, kept = time.perf_counter() - started, megabytes(), path.stat().st_size / 1e6
    print(f"{side} x {side} x {classes}, tiles of {tile}, batch {batch}: {took:.1f} s, {kept:.0f} MB on the shelf")
    print(
        f"peak {after:.0f} MB: libraries {bare:.0f}, network and one tile {before - bare:.0f}, the image {after - before:.0f}"
    )
    print(f"all maps in float32 would be {side * side * classes * 4 / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
