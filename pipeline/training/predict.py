"""The only inference: the same for out-of-fold rows and test rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.images.cache import Images, metadata
from pipeline.nets.machine import Machine, unit
from pipeline.nets.models import Network, central, to_prediction
from pipeline.nets.normalize import on_device
from pipeline.store.errors import resolve
from pipeline.store.files import Array
from pipeline.tasks import Task

View = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return the image as it is."""
    return x


def hflip(x: Tensor) -> Tensor:
    """Flip left to right."""
    return x.flip(3)


def turned(quarter: int, flip: bool) -> View:
    """Return one of the eight symmetries of the square."""
    return lambda x: (x.flip(3) if flip else x).rot90(quarter, (2, 3))


def part(top: float, left: float, side: int, flip: bool = False) -> View:
    """Return a `side` x `side` part that begins at a share of what is left above and beside it, mirrored or not."""

    def cut(x: Tensor) -> Tensor:
        row, column = (int(share * (whole - side)) for share, whole in zip((top, left), x.shape[2:], strict=True))
        x = x[:, :, row : row + side, column : column + side]
        return x.flip(3) if flip else x

    return cut


def crops(side: int, flips: Sequence[bool]) -> list[View]:
    """Return the four corners and the centre (Krizhevsky 2012), mirrored or not."""
    corners = [(top, left) for top in (0, 1) for left in (0, 1)]
    return [part(top, left, side, flip) for flip in flips for top, left in (*corners, (0.5, 0.5))]


def scaled(scale: float, side: int) -> View:
    """Return the centre of the image at another scale, reflected where it is too small; as large as it is seen."""

    def resize(x: Tensor) -> Tensor:
        seen = (side, side) if side else (x.shape[2], x.shape[3])
        if scale != 1:
            x = unit(x)
            size = [round(scale * whole) for whole in x.shape[2:]]
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        # Half of what lacks above, half below; a negative margin cuts, as `central` does.
        above, before = (-((have - want) // 2) for want, have in zip(seen, x.shape[2:], strict=True))
        margins = [before, seen[1] - x.shape[3] - before, above, seen[0] - x.shape[2] - above]
        return functional.pad(functional.pad(x, [max(m, 0) for m in margins], "reflect"), [min(m, 0) for m in margins])

    return resize


# Views of what the network sees of an image; a function of that side (0: all) gives views of the whole image.
TTA: dict[str, list[View] | Callable[[int], list[View]]] = {
    "none": [identity],
    "hflip": [identity, hflip],
    "d4": [turned(quarter, flip) for flip in (False, True) for quarter in range(4)],
    "5crop": lambda side: crops(side, [False]),
    "10crop": lambda side: crops(side, [False, True]),
    "scales": lambda side: [scaled(scale, side) for scale in (0.9, 1.0, 1.1)],
}


def views_of(tta: str, side: int) -> list[View]:
    """Return the views of a TTA set for a network that sees `side` x `side` of an image (0: all of it)."""
    found = resolve(TTA, tta, "predict.tta")
    return found(side) if callable(found) else [partial(_of_the_centre, view, side) for view in found]


def _of_the_centre(view: View, side: int, x: Tensor) -> Tensor:
    return view(central(x, side))


@torch.inference_mode()
def scores(
    network: nn.Module, images: Images, rows: Array, *, machine: Machine, batch_size: int, view: View = identity
) -> Tensor:
    """Return the raw scores (N D, float32, on the CPU) of some rows of `images` (H W C each) seen through a view."""
    machine.place(network).eval()
    parts, meta = [], torch.from_numpy(metadata(images))
    for batch in np.split(rows, range(batch_size, len(rows), batch_size)):
        x = on_device(torch.from_numpy(images[batch]), images, batch, machine, getattr(network, "reads_bytes", False))
        beside = [meta[batch].to(machine.device)] if meta.shape[1] else []
        with machine.autocast():
            parts.append(network(view(x), *beside).float().cpu())
    return torch.cat(parts)


def predict(
    network: Network, task: Task, head: str, images: Images, rows: Array, *, machine: Machine, tta: str, batch_size: int
) -> tuple[Array, Array]:
    """Return predictions (N P, float32) of some rows of `images`, mean over the views of `tta`, and their spread.

    The spread (N, float32) is the standard deviation over the views, mean over the columns.
    """
    seen = through(network, task, head, images, rows, machine=machine, tta=tta, batch_size=batch_size)
    return seen.mean(0).numpy(), seen.std(0, correction=0).mean(1).numpy()


def through(
    network: Network, task: Task, head: str, images: Images, rows: Array, *, machine: Machine, tta: str, batch_size: int
) -> Tensor:
    """Return predictions of some rows of `images` through each view of `tta` (W N P)."""
    views = views_of(tta, network.crop)
    center, spread = network.center.cpu(), network.spread.cpu()
    return torch.stack(
        [
            to_prediction(task, head, scored[:, : scored.shape[1] - network.extra], center, spread)
            for view in views
            for scored in [scores(network, images, rows, machine=machine, batch_size=batch_size, view=view)]
        ]
    )


@torch.inference_mode()
def embed(
    network: Network,
    images: Images,
    rows: Array | None = None,
    *,
    machine: Machine,
    batch_size: int,
    view: View = identity,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pooled features (n F, float16) and raw scores (n D, float32) of some rows (None: all), on the CPU."""
    machine.place(network).eval()
    meta = torch.from_numpy(metadata(images))
    wanted = np.arange(len(images)) if rows is None else rows
    for start in range(0, len(wanted), batch_size):
        rows = wanted[start : start + batch_size]
        x = on_device(torch.from_numpy(images[rows]), images, rows, machine, network.reads_bytes)
        with machine.autocast():
            features = network.features(view(x))
            scored = network.classify(features, meta[rows].to(machine.device))
            yield features.to(torch.float16).cpu(), scored.float().cpu()
