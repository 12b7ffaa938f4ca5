"""What is made of predicted maps: one pure function for evaluation and submission.

Components are joined by their sides (4 neighbours); areas are shares of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np

from pipeline.store.files import Array

# Heights of a watershed are flooded in so many steps.
LEVELS = 32


@dataclass(frozen=True)
class Decision:
    """How probabilities become a mask of one class.

    `threshold`: a pixel is mask above it. `top`, `top_area`: the mask is empty unless the share of pixels above `top`
    reaches `top_area` (the triplet with `threshold`). `present`: empty where the class is less likely to be there at
    all. `min_area`: components smaller than this share of the image go. `largest`: only the largest component stays.
    `fill`: holes are filled. `split`: touching objects are divided by a watershed from where the distance map is above
    it (0: objects are components).
    """

    threshold: float = 0.5
    top: float = 0.0
    top_area: float = 0.0
    present: float = 0.0
    min_area: float = 0.0
    fill: bool = False
    split: float = 0.0
    largest: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the decision for a receipt."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Decision:
        """Return a decision read from a receipt; a key it does not know is a `ValueError`."""
        odd = sorted(set(values) - {field.name for field in fields(cls)})
        if odd:
            raise ValueError(f"unknown key {odd[0]!r} of a decision")
        return cls(**values)


def decide(
    maps: Array, present: Array, d: Decision | Sequence[Decision], size: tuple[int, int], exclusive: bool = False
) -> Array:
    """Return the masks (C H W bool) of an image of `size` by its maps (C+E h w) and presence (C).

    Probabilities are brought to the full size first. With `exclusive` each pixel is of its likeliest class: classes
    that are gated or pieces that are dropped go to the next likeliest; thresholds and holes play no part.
    """
    p = resize(maps[: len(present)], size)
    rules = [d] * len(p) if isinstance(d, Decision) else list(d)
    there = [passes(q, float(share), rule) for q, share, rule in zip(p, present, rules, strict=True)]
    if exclusive:
        return _exclusive(p, np.array(there), rules)
    masks = np.zeros(p.shape, bool)
    for c in np.flatnonzero(there):
        mask = p[c] > rules[c].threshold
        masks[c] = kept(fill_holes(mask) if rules[c].fill else mask, rules[c])
    return masks


def passes(p: Array, present: float, d: Decision) -> bool:
    """Say whether a class is there at all, by its presence and its surest pixels (p H W)."""
    if present < d.present:
        return False
    return d.top == 0 or bool(np.count_nonzero(p > d.top) >= d.top_area * p.size)


def kept(mask: Array, d: Decision) -> Array:
    """Return a mask (H W bool) without the components that are too small, or with the largest alone."""
    if not (d.min_area or d.largest):
        return mask
    labels, areas = components(mask)
    return keep(areas, d, mask.size)[labels]


def keep(areas: Array, d: Decision, pixels: int) -> Array:
    """Say which labels stay by their areas (in an image of so many pixels): never 0, the background."""
    stay = areas >= d.min_area * pixels
    stay[0] = False
    if d.largest and len(areas) > 1:
        stay &= np.arange(len(areas)) == areas[1:].argmax() + 1
    return stay


def components(mask: Array) -> tuple[Array, Array]:
    """Return the components of a mask as labels (H W int32, 0 is background) and the area of each label."""
    found = np.asarray(cv2.connectedComponents(_bytes(mask), connectivity=4)[1])
    return found, np.bincount(found.ravel())


def fill_holes(mask: Array) -> Array:
    """Return a mask with the background filled that does not reach the border of the image."""
    labels, areas = components(~mask)
    outside = np.zeros(len(areas), bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    outside[0] = False
    return ~outside[labels]


def resize(maps: Array, size: tuple[int, int]) -> Array:
    """Return maps (C h w) at `size` (height, width), bilinear, both grids laid over the whole image."""
    height, width = int(size[0]), int(size[1])
    if maps.shape[1:] == (height, width):
        return maps
    out = np.empty((len(maps), height, width), np.float32)
    for c, plane in enumerate(maps):
        out[c] = cv2.resize(np.asarray(plane, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def objects_of(mask: Array, maps: Array, d: Decision, classes: int = 1) -> Array:
    """Return the objects of a mask (H W bool) as labels (H W int32): components, divided where they touch.

    `maps` (C+E h w): the first after `classes` is the distance to the object's border; where there is none the mask's
    own distance takes its place, as a share of its maximum in each component.
    """
    labels, areas = components(mask)
    if d.split == 0 or len(areas) == 1:
        return labels
    if len(maps) > classes:
        height = resize(maps[classes : classes + 1], mask.shape)[0]
    else:
        height = _own_height(mask, labels, len(areas))
    markers, _ = components(mask & (height > d.split))
    # A component without a marker is one object.
    bare = np.ones(len(areas), bool)
    bare[labels[markers > 0]] = bare[0] = False
    return flood(np.where(bare[labels], labels + markers.max(), markers), height, mask)


def flood(markers: Array, height: Array, mask: Array) -> Array:
    """Return markers (H W int) grown over a mask from high to low, each component of the mask from one at least.

    Objects are numbered 1, 2, ... in the order of their markers; a pixel that two reach at once is of the later one.
    """
    found = np.unique(markers[mask & (markers > 0)])
    grown = np.searchsorted(found, markers).astype(np.float32) + 1
    grown[~mask | (markers == 0)] = 0
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for level in [*np.linspace(1, 0, LEVELS, endpoint=False), -np.inf]:
        free = mask & (height >= level) & (grown == 0)
        while free.any():
            near = cv2.dilate(grown, cross)
            new = free & (near > 0)
            if not new.any():
                break
            np.copyto(grown, near, where=new)
            free ^= new
    return grown.astype(np.int32)


def distance_target(instances: Array) -> Array:
    """Return the distance of each pixel to the border of its object as a share of the object's largest (H W float32).

    `instances` (H W) are labels, 0 is background; the border of the image is no border of an object.
    """
    target = np.zeros(instances.shape, np.float32)
    for label, box in _boxes(instances):
        mine = instances[box] == label
        distance = _distance(mine)
        target[box][mine] = (distance / distance.max())[mine]
    return target


def _boxes(instances: Array) -> list[tuple[int, tuple[slice, slice]]]:
    """Return labels and the boxes around them, one pixel wider where the image goes on."""
    from scipy import ndimage

    found = enumerate(ndimage.find_objects(instances.astype(np.int64)), start=1)
    return [(k, _wider(box)) for k, box in found if box is not None]


def _wider(box: tuple[slice, slice]) -> tuple[slice, slice]:
    y, x = box
    return slice(max(y.start - 1, 0), y.stop + 1), slice(max(x.start - 1, 0), x.stop + 1)


def _distance(mask: Array) -> Array:
    """Return the exact Euclidean distance of mask pixels to the nearest other one; 1 where all is mask."""
    if mask.all():
        return np.ones(mask.shape, np.float32)
    return np.asarray(cv2.distanceTransform(_bytes(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _own_height(mask: Array, labels: Array, count: int) -> Array:
    """Return the distance to the border of the mask as a share of its maximum in each component."""
    distance = _distance(mask)
    top = np.full(count, 1.0, np.float32)
    np.maximum.at(top, labels.ravel(), distance.ravel())
    return distance / top[labels]


def _exclusive(p: Array, there: Array, rules: Sequence[Decision]) -> Array:
    """Return the masks of classes of which each pixel has one."""
    rest = np.where(there[:, None, None], p, -1.0)
    first = rest.argmax(0)
    for c, rule in enumerate(rules):
        mask = first == c
        rest[c][mask & ~kept(mask, rule)] = -1.0
    best = rest.argmax(0)
    return np.asarray(best == np.arange(len(p))[:, None, None])


def _bytes(mask: Array) -> Array:
    return np.ascontiguousarray(mask, bool).view(np.uint8)
