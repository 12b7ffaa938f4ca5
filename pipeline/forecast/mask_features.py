"""Label-free features of an image's maps, of what a decision makes of them, and of single objects.

All come from the run's maps at full size, those of the members below it and image statistics; never from a label, the
fold or the id. Of several classes the features of a mask are means over classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.masks.decide import Decision, components
from pipeline.store.files import Array

LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
IMAGE = [
    *("mean", "sd", "max", "top", "doubt", "sure", "present", "member sd", "member iou", "member least"),
    *(f"area {level:g}" for level in LEVELS),
]
MASK = [
    *("area", "soft iou", "soft dice", "mean inside", "sd inside", "mean outside", "sd outside", "max outside"),
    *("objects", "largest", "perimeter", "solidity", "border", "doubt at edge", "iou with plain", "iou with members"),
    "least iou",
]
ACTION = ["threshold", "top", "top area", "gate", "min area", "fill", "split", "only largest", "of member", "pruned at"]
OBJECT = [
    *("area", "of median", "of mask", "mean p", "sd p", "max p", "p at edge", "p around", "compact", "solidity"),
    *("extent", "elongated", "border", "members", "member sd", "objects", "class", "image area", "present"),
]
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def of_image(p: Array, present: Array, members: Array) -> Array:
    """Return the features `IMAGE` of maps (C H W), presence (C) and those of members (M C H W)."""
    flat = p.reshape(len(p), -1)
    # The hundredth part of the pixels that are surest to be mask.
    top = np.partition(flat, -max(flat.shape[1] // 100, 1), axis=1)[:, -max(flat.shape[1] // 100, 1) :].mean()
    doubt, sure = (4 * flat * (1 - flat)).mean(), ((flat < 0.2) | (flat > 0.8)).mean()
    found = [flat.mean(), flat.std(), flat.max(), top, doubt, sure, present.mean()]
    if len(members) > 1:
        halves = members > 0.5
        pairs = [iou(a, b) for i, a in enumerate(halves) for b in halves[:i]]
        found += [members.std(0).mean(), np.mean(pairs), np.min(pairs)]
    else:
        found += [0.0, 1.0, 1.0]
    return np.array([*found, *((flat > level).mean() for level in LEVELS)], np.float64)


def of_mask(p: Array, mask: Array, plain: Array, members: Array) -> Array:
    """Return the features `MASK` of a mask (C H W), beside the untuned one and those of the members (M C H W bool)."""
    own = np.mean([_of_class(q, m) for q, m in zip(p, mask, strict=True)], 0)
    agree = [iou(mask, member) for member in members] or [iou(mask, plain)]
    return np.concatenate([own, [iou(mask, plain), np.mean(agree), np.min(agree)]])


def of_action(decisions: Sequence[Decision], member: bool, cut: float) -> Array:
    """Return the features `ACTION`: decisions (mean over classes), whether of a member, the cut of objects."""
    rows = [[d.threshold, d.top, d.top_area, d.present, d.min_area, d.fill, d.split, d.largest] for d in decisions]
    return np.array([*np.mean(np.array(rows, np.float64), 0), member, cut], np.float64)


def iou(one: Array, other: Array) -> float:
    """Return the IoU of two masks, 1 where both are empty."""
    either = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / either if either else 1.0


def of_objects(p: Array, labels: Array, areas: Array, chosen: Array, members: Array) -> Array:
    """Return the first 16 features of `OBJECT` of the labels `chosen` (n) of one class: n 16.

    `p` (H W), `labels` (H W) with `areas` by label, `members` (M H W): their maps.
    """
    from scipy import ndimage

    if not len(chosen):
        return np.zeros((0, 16))
    boxes, total, median = ndimage.find_objects(labels), float(areas[1:].sum()), float(np.median(areas[1:]))
    votes = (members > 0.5).mean(0) if len(members) else labels > 0
    spread = members.std(0) if len(members) > 1 else np.zeros(p.shape)
    found = []
    for label in chosen.tolist():
        box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[label - 1])
        mine, q = labels[box] == label, p[box]
        edge, around = _edges(mine)
        size, inside = float(areas[label]), q[mine]
        height, width = (side.stop - side.start for side in boxes[label - 1])
        border = any(s.start == 0 or s.stop == n for s, n in zip(boxes[label - 1], p.shape, strict=True))
        found.append([size / p.size, size / median, size / total, inside.mean(), inside.std(), inside.max()])
        found[-1] += [q[edge].mean(), q[around].mean() if around.any() else 1.0, edge.sum() ** 2 / size]
        found[-1] += [_solidity(mine), size / (height * width), max(height, width) / min(height, width), border]
        found[-1] += [votes[box][mine].mean(), spread[box][mine].mean(), len(areas) - 1]
    return np.array(found, np.float64)


def _of_class(p: Array, mask: Array) -> list[float]:
    size, pixels, total = np.count_nonzero(mask), mask.size, float(p.sum(dtype=np.float64))
    inside, outside = p[mask], p[~mask]
    both = float(inside.sum(dtype=np.float64))
    union, parts = total + size - both, total + size
    found = [size / pixels, both / union if union else 1.0, 2 * both / parts if parts else 1.0]
    found += [float(inside.mean()), float(inside.std())] if size else [0.0, 0.0]
    found += [float(outside.mean()), float(outside.std()), float(outside.max())] if size < pixels else [1.0, 0.0, 1.0]
    if not size:
        return [*found, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    areas, (edge, around) = components(mask)[1][1:], _edges(mask)
    doubt = p[edge | around]
    frame = np.count_nonzero(mask[[0, -1]]) + np.count_nonzero(mask[:, [0, -1]])
    found += [len(areas), areas.max() / size, np.count_nonzero(edge) / size**0.5, _solidity(mask)]
    return [*found, frame / (2 * sum(mask.shape)), float((4 * doubt * (1 - doubt)).mean()) if doubt.size else 0.0]


def _edges(mask: Array) -> tuple[Array, Array]:
    """Return the pixels of a mask at its border, and those just outside."""
    small = mask.astype(np.uint8)
    inner, outer = cv2.erode(small, CROSS).view(bool), cv2.dilate(small, CROSS).view(bool)
    edge = mask & ~inner  # none where the mask fills the image
    return (edge if edge.any() else mask), outer & ~mask


def _solidity(mask: Array) -> float:
    """Return the area of the outlines as a share of that of their convex hulls."""
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    hulls = sum(cv2.contourArea(cv2.convexHull(line)) for line in outlines)
    return float(sum(cv2.contourArea(line) for line in outlines) / hulls) if hulls else 1.0
