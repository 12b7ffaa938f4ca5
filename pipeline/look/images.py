"""What the images are: kinds, sizes, bits, and which symmetries a picture of them all has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.competitions.paths import ending
from pipeline.look.words import Finding
from pipeline.store.files import Array

LOOKED_AT = 160
# How far the mean picture moves, in shares of the images' own variance: mirrored .05 for digits, .02 for knees and
# below .02 for cells and plants; turned 2.4 for knees, 1.2 for digits, and below .05 for cells and plants.
MIRRORED, TURNED, NOISE = 0.03, 0.1, 3.0


@dataclass(frozen=True)
class Kinds:
    """What a number of images are: channels, bits, sides (N 2, height and width), symmetry and what to say of it."""

    findings: list[Finding]
    sides: Array
    symmetry: str
    why: str


def look_at(data: Path, images: Sequence[str], size: int = LOOKED_AT) -> Kinds:
    """Decode images, evenly spaced over the list, and say what they are."""
    names = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, size).astype(int))]
    decoded = {name: image for name in names if (image := _read(data / name)) is not None}
    found = [image for image in decoded.values() if image.dtype in (np.uint8, np.uint16, np.float32)]
    if not found:
        words = f"no image could be read as such ({names[0]}): they need images.decoder, a function of your own"
        return Kinds([Finding("images.channels", None, words, False)], np.zeros((0, 2)), "upright", "not looked at")
    findings = [_channels(found, ending(names[0]) == "npy"), _depth(found)]
    sides = np.array([image.shape[:2] for image in found])
    short, long = sides.min(1), sides.max(1)
    low, high = short.argmin(), long.argmax()
    words = (
        f"of {len(found)} images looked at the smallest has {sides[low][0]} x {sides[low][1]} pixels, "
        f"the median {np.median(sides[:, 0]):.0f} x {np.median(sides[:, 1]):.0f}, "
        f"the largest {sides[high][0]} x {sides[high][1]}"
    )
    findings.append(Finding("images.size", None, words))
    if len(found) < len(names):
        words = f"{len(names) - len(found)} of {len(names)} images looked at cannot be read"
        findings.append(Finding("images.unreadable", None, words, False))
    return Kinds(findings, sides, *symmetry(found))


def symmetry(images: Sequence[Array]) -> tuple[str, str]:
    """Return "d4", "hflip" or "upright": which mirrors and turns leave the mean picture as it is, within its noise.

    A picture of all images that is the same upside down and on its side has no upright; one that is the same in the
    mirror only is a photograph; one that is not, or is ink on paper, is writing, or has a side.
    """
    if np.median([_ink(image) for image in images]) > 0.8:
        return "upright", "nearly all pixels are black or white, as in writing"
    small = np.stack([_small(image) for image in images])
    if len(small) < 16:
        return "upright", f"{len(small)} images are too few to see a symmetry"
    mean = small.mean(0)

    def moved(turn: Any) -> float:
        difference = small - np.stack([turn(image) for image in small])
        return float(((mean - turn(mean)) ** 2).sum() / max(difference.var(0, ddof=1).sum(), 1e-12))

    mirror, turned = moved(np.fliplr), max(moved(np.flipud), moved(np.rot90))
    told = f"of the images' variance the mean picture moves {mirror:.3f} in the mirror, {turned:.3f} when turned"
    if mirror > max(MIRRORED, NOISE / len(small)):
        return "upright", f"{told}: left and right differ"
    if turned > max(TURNED, NOISE / len(small)):
        return "hflip", f"{told}: up and down differ"
    return "d4", f"{told}: it has no upright"


def _ink(image: Array) -> float:
    """Return the share of pixels that are nearly the darkest or the brightest, 0 where either is rare or in colour."""
    if _kind(image) not in ("grey", "grey saved as rgb"):
        return 0.0
    grey = np.asarray(image if image.ndim == 2 else image[..., 0], np.float32)
    low, high = grey.min(), grey.max()
    dark, bright = ((grey <= low + 0.1 * (high - low)).mean(), (grey >= high - 0.1 * (high - low)).mean())
    return float(dark + bright) if min(dark, bright) > 0.03 else 0.0


def _channels(images: Sequence[Array], arrays: bool) -> Finding:
    kinds = Counter(map(_kind, images))
    told = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
    if arrays:
        count = images[0].shape[2] if images[0].ndim == 3 else 1
        return Finding("images.channels", int(count), f"arrays with {count} channels in the last axis")
    grey_only = {"grey", "grey saved as rgb"}
    channels = "rgba" if "rgba" in kinds else "grey" if set(kinds) <= grey_only else "rgb"
    sure = len(kinds) == 1 and "grey saved as rgb" not in kinds
    return Finding("images.channels", channels, f"kinds of {len(images)} images looked at: {told}", sure)


def _kind(image: Array) -> str:
    count = 1 if image.ndim == 2 else image.shape[2]
    if count == 4 and (image[..., 3] != image[0, 0, 3]).any():
        return "rgba"
    if count >= 3:
        same = (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
        return "grey saved as rgb" if same else "rgb"
    return "grey"


def _depth(images: Sequence[Array]) -> Finding:
    bits = Counter(image.dtype.itemsize * 8 for image in images)
    told = ", ".join(f"{b} bits in {n}" for b, n in sorted(bits.items()))
    depth = max(bits) if max(bits) > 8 else None
    return Finding("images.depth", depth, f"bits of a pixel and channel, of images looked at: {told}", len(bits) == 1)


def _read(path: Path) -> Array | None:
    """Return an image as it is stored (H W or H W C); None where nothing reads it."""
    try:
        if ending(path.name) == "npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        data = path.read_bytes()
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (cv2.error, ValueError, OSError):
        return None


def _small(image: Array) -> Array:
    """Return a 12 x 12 grey thumbnail with mean 0 and deviation 1."""
    grey = np.asarray(image, np.float32)
    grey = grey if grey.ndim == 2 else grey[..., :3].mean(2)
    thumb = cv2.resize(grey, (12, 12), interpolation=cv2.INTER_AREA)
    return np.asarray((thumb - thumb.mean()) / (thumb.std() + 1e-6))
