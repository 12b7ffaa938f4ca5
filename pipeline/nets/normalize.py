"""Normalisation of pixels: fixed, by the training rows, by image, by group; statistics are of each channel, in 0..1."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sized

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.images.cache import Images, Rows
from pipeline.nets.machine import Machine, to_device, unit
from pipeline.store.files import Array

MEAN_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# A flat image or channel has no spread: one grey level of 255 stands for it.
FLAT = 1 / 255
CHUNK = 32


def fixed(normalize: str, channels: int) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (1 C 1 1) of a network; 0 and 1 where they are told later or by row."""
    if normalize not in MEAN_STD:
        return torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1)
    mean, std = MEAN_STD[normalize]
    return _spread_out(mean, channels), _spread_out(std, channels)


def _spread_out(rgb: tuple[float, ...], channels: int) -> Tensor:
    """Give three channels their own values, a fourth (alpha) the mean of the three, as all others and grey."""
    own = list(rgb) if channels in (3, 4) else []
    return torch.tensor([*own, *[sum(rgb) / 3] * (channels - len(own))]).view(1, -1, 1, 1)


def standard(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return pixels (N C H W, bytes or floats in 0..1) less `mean`, over `std` (1 C 1 1)."""
    if x.dtype == torch.uint8 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _by_table(x, mean, std)
    scaled = unit(x) - mean
    return scaled / std


def _by_table(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the same of bytes, to the bit, in one pass over them instead of four."""
    table = ((torch.arange(256) / 255)[:, None, None] - mean.view(1, 1, -1)) / std.view(1, 1, -1)
    # How a view was turned shows in its strides, and must show in those of what comes out: convolutions go by them.
    order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if x.stride(2) >= x.stride(3) else ((0, 3, 2, 1), (0, 3, 2, 1))
    pixels = x.permute(order).contiguous().numpy()
    found = cv2.LUT(pixels.reshape(-1, *pixels.shape[2:]), table.numpy())
    done = torch.from_numpy(found).view(pixels.shape).permute(back)
    return done if x.stride(1) == 1 else done.clone(memory_format=torch.contiguous_format)


def by_image(x: Tensor) -> Tensor:
    """Normalise each channel of each image (N C H W) by its own mean and standard deviation."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / (x - mean).square().mean((2, 3), keepdim=True).sqrt().clamp(min=FLAT)


def moments(images: Images, rows: Array, channels: int) -> Array:
    """Return the mean and the mean square (n 2 C, float64, in 0..1) of each channel of some images.

    Images are H W (V C): views, where there are several, are pooled.
    """
    found = np.empty((len(rows), 2, channels))
    for start in range(0, len(rows), CHUNK):
        part = np.array(images[rows[start : start + CHUNK]])
        pixels = torch.from_numpy(part).reshape(len(part), -1, channels).transpose(1, 2).double()
        pixels /= 1 if part.dtype.kind == "f" else np.iinfo(part.dtype).max
        found[start : start + CHUNK] = torch.stack([pixels.mean(2), pixels.square().mean(2)], 1).numpy()
    return found


def mean_and_std(found: Array) -> tuple[Array, Array]:
    """Return the mean and standard deviation (C, float32) of all pixels whose `moments` are given."""
    mean, square = found.mean(0)
    std = np.sqrt(np.maximum(square - mean**2, FLAT**2))
    return mean.astype(np.float32), std.astype(np.float32)


def of_rows(images: Images, rows: Array, channels: int) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (1 C 1 1) of some rows: those that a model trains on."""
    mean, std = mean_and_std(moments(images, rows, channels))
    return torch.from_numpy(mean).view(1, -1, 1, 1), torch.from_numpy(std).view(1, -1, 1, 1)


def of_images(images: Iterable[Array], channels: int) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (1 C 1 1) of the pixels of images of any size; each image counts alike."""
    found = np.concatenate([moments(image[None], np.arange(1), channels) for image in images])
    mean, std = mean_and_std(found)
    return torch.from_numpy(mean).view(1, -1, 1, 1), torch.from_numpy(std).view(1, -1, 1, 1)


def by_group(images: Images, groups: Array, channels: int, unread: Collection[int]) -> Array:
    """Return the mean and sd (N 2 C, float32) of the group of each image; a row of no group ("") stands alone.

    Nothing but pixels is looked at, and only those of the rows given: those that are labelled, or those of the test.
    Images that could not be read are black and say nothing of their group.
    """
    names = np.array([group or f"\0{row}" for row, group in enumerate(groups)])
    _, which = np.unique(names, return_inverse=True)
    found = moments(images, np.arange(len(images)), channels)
    counts = ~np.isin(np.arange(len(images)), list(unread))
    each = []
    for group in range(which.max() + 1):
        mine = which == group
        each.append(np.stack(mean_and_std(found[mine & counts if (mine & counts).any() else mine])))
    return np.stack(each)[which]


def on_device(views: Tensor, images: Sized, rows: Array | Tensor, machine: Machine, raw: bool = False) -> Tensor:
    """Move views (N H W C) of some rows of `images` to the device, as N C H W in 0..1, or normalised by group.

    `raw` leaves bytes as they are where no group needs more: for a network that scales them itself.
    """
    grouped = isinstance(images, Rows) and images.stats is not None
    if raw and views.dtype == torch.uint8 and not grouped and machine.layout == "channels_last":
        return views.to(machine.device, non_blocking=True).permute(0, 3, 1, 2)
    x = to_device(views, machine)
    if not isinstance(images, Rows) or images.stats is None:
        return x
    stats = images.stats[np.asarray(rows)]
    views_a_row = x.shape[1] // stats.shape[2]
    mean, std = (torch.from_numpy(np.tile(s, views_a_row))[:, :, None, None].to(x.device) for s in stats.swapaxes(0, 1))
    # A view that is missing is black, and stays so.
    return (x - mean) / std * (x != 0).any(3, keepdim=True).any(2, keepdim=True)
