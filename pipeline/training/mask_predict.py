"""Predict masks image by image: no more than a batch of views, or a row of tiles, is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.images.fits import Grid, padded, resized, undone, woven
from pipeline.images.ragged import Ragged
from pipeline.masks.maps import SHELF, pack
from pipeline.nets.machine import Machine, to_device
from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.mask_objective import probabilities
from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.training.predict import turned

View = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _symmetry(quarter: int, flip: bool) -> View:
    def back(maps: Tensor) -> Tensor:
        maps = maps.rot90(-quarter, (2, 3))
        return maps.flip(3) if flip else maps

    return turned(quarter, flip), back


def _scaled(scale: float, stride: int, size: tuple[int, int]) -> View:
    """Return the view at another scale, to the next size that the network takes, and the way back to `size`."""
    sides = [max(1, round(scale * side / stride)) * stride for side in size]

    def there(x: Tensor) -> Tensor:
        return functional.interpolate(x, sides, mode="bilinear", antialias=True)

    def back(maps: Tensor) -> Tensor:
        return functional.interpolate(maps, size, mode="bilinear", antialias=True)

    return there, back


# Views and the way back from each, for a network's stride and the size that it sees.
MASK_TTA: dict[str, Callable[[int, tuple[int, int]], list[View]]] = {
    "none": lambda stride, size: [_symmetry(0, False)],
    "hflip": lambda stride, size: [_symmetry(0, flip) for flip in (False, True)],
    "d4": lambda stride, size: [_symmetry(quarter, flip) for flip in (False, True) for quarter in range(4)],
    "scales": lambda stride, size: [_symmetry(0, False), *(_scaled(s, stride, size) for s in (0.8, 1.25))],
}


@dataclass(frozen=True)
class Look:
    """How masks are predicted: what the network sees of an image, views of that, the size of the maps on the shelf."""

    exclusive: bool
    fit: str
    size: tuple[int, int]
    tta: str = "none"
    scale: float = 1.0
    overlap: float = 0.5
    window: str = "hann"
    batch_size: int = 32


@torch.inference_mode()
def see(network: MaskNetwork, batch: Array, look: Look, machine: Machine) -> tuple[Array, Array]:
    """Return the maps (n C+E H W, float32, in 0..1) and presence (n C) of a batch n H W C, mean over the views."""
    x = to_device(torch.from_numpy(batch), machine)
    maps: Tensor | float = 0.0
    present: Tensor | float = 0.0
    views = resolve(MASK_TTA, look.tta, "predict.tta")(network.stride, look.size)
    for there, back in views:
        view = there(x)
        with machine.autocast():
            scores = network(view)
        seen, known = probabilities(network.heads, look.exclusive, scores, *view.shape[2:])
        maps, present = maps + back(seen) / len(views), present + known / len(views)
    assert isinstance(maps, Tensor)
    assert isinstance(present, Tensor)
    return maps.cpu().numpy(), present.cpu().numpy()


def predicted(
    network: MaskNetwork, images: Ragged, rows: Array, sizes: Array, look: Look, machine: Machine
) -> Iterator[tuple[Array, Array]]:
    """Yield of each of some rows its maps (C+E h w) at `sizes` (n 2) and the presence of its classes (C)."""
    machine.place(network).eval()
    if look.fit == "tiles":
        for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
            yield _tiled(network, images[row], tuple(size), look, machine)
        return
    for start in range(0, len(rows), look.batch_size):
        part = rows[start : start + look.batch_size].tolist()
        known = [images[row] for row in part]
        batch = np.stack([resized(i, look.size) if look.fit == "resize" else padded(i, look.size) for i in known])
        maps, present = see(network, batch, look, machine)
        for n, image in enumerate(known):
            yield undone(maps[n], look.fit, image.shape[:2], tuple(sizes[start + n].tolist())), present[n]


def _tiled(
    network: MaskNetwork, image: Array, size: tuple[int, int], look: Look, machine: Machine
) -> tuple[Array, Array]:
    """Return the maps (float16) and presence of an image seen in overlapping tiles: presence is that of the surest."""
    full = padded(image, look.size)
    grid = Grid(full.shape[:2], look.size, look.overlap, look.window)
    (height, width), present = look.size, np.zeros(network.heads.classes, np.float32)

    def tiles() -> Iterator[Array]:
        nonlocal present
        corners = [(top, left) for top in grid.starts(0) for left in grid.starts(1)]
        for n in range(0, len(corners), look.batch_size):
            part = [full[y : y + height, x : x + width] for y, x in corners[n : n + look.batch_size]]
            maps, known = see(network, np.stack(part), look, machine)
            present = np.maximum(present, known.max(0))
            yield from maps

    out = np.empty((network.heads.maps, *full.shape[:2]), SHELF)
    for top, band in woven(grid, tiles()):
        out[:, top : top + band.shape[1]] = band
    have: tuple[int, int] = image.shape[:2]
    if full.shape == image.shape and size == have:
        return out, present
    # One map at a time: all of them in float32 would need twice the memory.
    whole = [undone(part[None].astype(np.float32), "pad", have, size).astype(SHELF) for part in out]
    return np.concatenate(whole), present


def stretches(
    network: MaskNetwork, images: Ragged, rows: Array, sizes: Array, look: Look, machine: Machine
) -> Iterator[Array]:
    """Yield the stretches of the shelf (flat float16) of some rows, whose maps have `sizes` (n 2)."""
    for maps, present in predicted(network, images, rows, sizes, look, machine):
        if maps.dtype == SHELF:  # large: what `pack` would copy
            yield maps.ravel()
            yield present.astype(SHELF)
        else:
            yield pack(maps, present)
