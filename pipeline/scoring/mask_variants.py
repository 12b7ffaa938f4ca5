"""What many decisions make of the same probability maps: each distinct mask once, streamed image by image.

A setting is one `Decision` a class; a grid is a list of settings, the untuned one first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from pipeline.masks.decide import Decision, components, decide, fill_holes, keep, objects_of, passes, resize
from pipeline.masks.maps import Maps
from pipeline.masks.metrics import MaskMetric
from pipeline.masks.sweep import MOST, sweep
from pipeline.store.command import setting
from pipeline.store.files import Array

Setting = tuple[Decision, ...]
T = TypeVar("T")

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
# Shares of the image: of 96 x 96 pixels 5 to 184, of 1024 x 1024 524 to 20,972.
AREAS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
PRESENT = (0.3, 0.5, 0.7)
TOPS, TOP_AREAS = (0.5, 0.7, 0.9), (0.001, 0.005, 0.02)
SPLITS = (0.3, 0.5, 0.7)


class Masks(Protocol):
    """The true masks of rows, as `pipeline.masks.truth.Truth` holds them."""

    @property
    def kind(self) -> str:
        """Return what the masks are: classes, exclusive or objects."""

    def __getitem__(self, row: int) -> Array:
        """Return the mask of a row (C H W bool)."""

    def instances(self, row: int) -> Array:
        """Return the objects of a row (H W int)."""


class Shown(Protocol):
    """Maps of rows, as `pipeline.masks.maps.Maps` holds them."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, i: int) -> Array:
        """Return the maps of a row (C+E h w)."""

    def present(self, i: int) -> Array:
        """Return the probabilities (C) that a class is there at all."""


def default_grid(
    classes: int, exclusive: bool, head: bool, objects: bool, scored: Sequence[int] | None = None
) -> list[Setting]:
    """Return the settings that are tried: for several classes one class at a time, the others untuned.

    `head`: a presence head tells where a class is empty; `objects`: touching objects may be split; `scored`: the places
    of the classes that are scored (None: all): independent ones that are not stay untuned.
    """
    # Of exclusive classes the arg max decides, and its probability need not pass any threshold.
    tried = [Decision(min_area=area) for area in AREAS]
    if not exclusive:
        tried = [Decision(threshold=t, min_area=area) for t in THRESHOLDS for area in (0.0, *AREAS)]
        low = [t for t in THRESHOLDS if t <= min(TOPS)]
        tried += [Decision(threshold=t, top=top, top_area=a) for t in low for top in TOPS for a in TOP_AREAS]
    if objects:
        middle = [d for d in tried if not d.top and d.threshold in THRESHOLDS[1:-1]]
        tried += [replace(d, split=split) for d in middle for split in SPLITS]
    if head:
        tried += [replace(d, present=gate) for d in tried if not d.top for gate in PRESENT]
    untuned = (Decision(),) * classes
    some = range(classes) if exclusive or scored is None else scored
    varied = [(*untuned[:c], d, *untuned[c + 1 :]) for c in some for d in tried]
    return list(dict.fromkeys([untuned, *varied]))


def stream(work: Callable[[int], T], n: int) -> list[T]:
    """Return `work(i)` of 0 .. n - 1 in order, by PODIUM_THREADS threads; no more than the results are kept."""
    threads = setting("PODIUM_THREADS", os.cpu_count() or 1, least=1)
    if threads == 1:
        return [work(i) for i in range(n)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(n)))


def measure(maps: Shown, truth: Masks, rows: Array, grid: Sequence[Setting], metric: MaskMetric) -> Array:
    """Return the statistics (N G k) of the masks that every setting of a grid makes of every image.

    `rows` (N,): which row of the truth each of the maps is of.
    """
    plain = not metric.objects and truth.kind != "exclusive" and thresholds_alone(grid)

    def one(i: int) -> Array:
        if plain and isinstance(maps, Maps):
            right = truth[int(rows[i])]
            if maps.size(i) == right.shape[1:]:
                return _swept(maps.stored(i), right, grid, metric)
        score, found = scorer(metric, truth, int(rows[i])), dict[int, Array]()
        seen, size = maps[i], truth[int(rows[i])].shape[1:]
        for places, mask in variants(seen, maps.present(i), grid, size, truth.kind == "exclusive"):
            statistics = score(mask, seen, grid[places[0]])
            found.update(dict.fromkeys(places, statistics))
        return np.array([found[g] for g in range(len(grid))])

    return np.stack(stream(one, len(rows)))


def thresholds_alone(grid: Sequence[Setting]) -> bool:
    """Say whether the settings of a grid, not too many, differ in their thresholds and ask for nothing else."""
    return len(grid) <= MOST and all(d == Decision(threshold=d.threshold) for each in grid for d in each)


def _swept(maps: Array, right: Array, grid: Sequence[Setting], metric: MaskMetric) -> Array:
    """Return the statistics (G k) of thresholds alone, by one look at the maps (C+E H W, float16)."""
    assert metric.of_counts is not None
    found = []
    for c in range(len(right)) if metric.classes is None else metric.classes:
        thresholds, place = np.unique([each[c].threshold for each in grid], return_inverse=True)
        found.append(sweep(maps[c, None], right[c, None], thresholds.tolist())[0, place])
    return metric.of_counts(*np.stack(found, -1).transpose(1, 0, 2))


def scorer(metric: MaskMetric, truth: Masks, row: int) -> Callable[[Array, Array, Setting], Array]:
    """Return what gives the statistics (k,) of a mask (C H W), the maps and the setting that it comes from.

    Objects never reach beyond their component: those of a mask without some components are those of the whole, found
    once for a threshold and a split, less the ones that are gone.
    """
    right = truth[row]
    if not metric.objects:
        return lambda mask, maps, how: metric.stats(right, mask)
    instances, known = truth.instances(row), dict[tuple[int, float, bool, float], tuple[Array, Array]]()

    def score(mask: Array, maps: Array, how: Setting) -> Array:
        d = Decision(threshold=how[0].threshold, fill=how[0].fill, split=how[0].split)
        key = (id(maps), d.threshold, d.fill, d.split)
        if key not in known:  # which keeps the maps, so that no others can have their id
            whole = decide(maps, np.ones(1), d, right.shape[1:])[0]
            known[key] = maps, objects_of(whole, maps, d, len(right))
        return metric.stats(right, mask, instances, np.where(mask[0], known[key][1], 0))

    return score


def variants(
    maps: Array, present: Array, grid: Sequence[Setting], size: tuple[int, int], exclusive: bool
) -> Iterator[tuple[list[int], Array]]:
    """Yield each distinct mask (C H W bool) that a grid makes of an image, with the places of its settings there.

    They are those of `pipeline.masks.decide.decide`; of independent classes the components are found once a threshold.
    Settings that split objects otherwise are not alike.
    """
    classes = len(present)
    if exclusive:
        for g, each in enumerate(grid):
            yield [g], decide(maps, present, each, size, exclusive)
        return
    full = resize(maps[:classes], size)
    made = [_of_class(full[c], float(present[c]), [each[c] for each in grid]) for c in range(classes)]
    places: dict[tuple[int, ...], list[int]] = {}
    for g in range(len(grid)):
        places.setdefault(tuple(which[g] for _, which in made), []).append(g)
    for key, alike in places.items():
        yield alike, np.stack([masks[at] for (masks, _), at in zip(made, key, strict=True)])


def _of_class(p: Array, present: float, decisions: Sequence[Decision]) -> tuple[list[Array], list[int]]:
    """Return the distinct masks (H W) of one class at full size, and which of them each decision makes."""
    masks, which = [np.zeros(p.shape, bool)], []
    found: dict[tuple[float, bool], tuple[Array, Array]] = {}
    known: dict[tuple[float, bool, float, bytes], int] = {}
    for d in decisions:
        if not passes(p, present, d):
            which.append(0)
            continue
        cut = (d.threshold, d.fill)
        if cut not in found:
            found[cut] = components(fill_holes(p > d.threshold) if d.fill else p > d.threshold)
        labels, areas = found[cut]
        stay = keep(areas, d, p.size)
        key = (*cut, d.split, stay.tobytes())
        if key not in known:
            known[key] = len(masks) if stay.any() else 0
            if stay.any():
                masks.append(stay[labels])
        which.append(known[key])
    return masks, which
