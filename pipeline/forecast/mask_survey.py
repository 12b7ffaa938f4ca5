"""What may be made of each image's maps: candidates with their features and statistics, and the objects in them.

A candidate is a setting on the maps of the run or of a member below it, or the untuned mask without the objects whose
predicted value is below a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.forecast.mask_features import OBJECT, of_action, of_image, of_mask, of_objects
from pipeline.forecast.mask_fill import Beside
from pipeline.masks.decide import Decision, components, decide, resize
from pipeline.masks.metrics import MaskMetric
from pipeline.scoring.mask_choice import from_decision
from pipeline.scoring.mask_variants import Masks, Setting, Shown, scorer, stream, variants
from pipeline.store.files import Array

CUTS = (0.2, 0.35, 0.5)
# Beyond so many objects of a class the smaller ones are left as they are.
MOST = 100
UNTUNED = Decision()


@dataclass(frozen=True)
class Action:
    """A candidate: a setting, on the maps of the run (`member` -1) or of a member.

    With `fill` what it makes is continued from the masks of tiles beside it (`mask_fill`).
    """

    setting: Setting
    member: int = -1
    fill: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the candidate for a file."""
        told = {"masks": [d.as_dict() for d in self.setting], "member": self.member}
        return told | ({"fill": True} if self.fill else {})

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Action:
        """Return the candidate that a file tells of."""
        return cls(from_decision(told), told["member"], told.get("fill", False))


@dataclass(frozen=True)
class Source:
    """Where the images are seen: maps of the run and of the members below it, full sizes (N 2), statistics (N S).

    `classes`: the places of those that are scored (None: all), which alone the features tell of. `beside`: what masks
    of tiles beside them say, where that is asked for.
    """

    maps: Shown
    members: Sequence[Shown]
    sizes: Array
    statistics: Array
    exclusive: bool = False
    classes: tuple[int, ...] | None = None
    beside: Beside | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def size(self, i: int) -> tuple[int, int]:
        """Return the full size of an image."""
        height, width = self.sizes[i].tolist()
        return height, width

    @property
    def some(self) -> slice | list[int]:
        """Return which of the classes are scored."""
        return slice(None) if self.classes is None else list(self.classes)


@dataclass(frozen=True)
class Goal:
    """What candidates are scored by: the metric, the true masks and which of their rows (N,) the images are."""

    metric: MaskMetric
    truth: Masks
    rows: Array


@dataclass(frozen=True)
class Survey:
    """N images with A candidates: features (N A F), statistics (N A k; without a goal k = 0).

    Their n objects: features (n O), the image of each (n,) and its true value (n,; NaN without a goal).
    """

    features: Array
    stats: Array
    objects: Array
    owner: Array
    value: Array


def default_actions(classes: int, exclusive: bool, members: int, objects: bool) -> list[Action]:
    """Return the candidates that are always offered, the untuned one first."""
    tried = [UNTUNED, Decision(present=2.0)]  # no class is there with a probability of 2
    tried += [Decision(min_area=area) for area in (0.002, 0.01, 0.03)]
    tried += [Decision(largest=True)]
    if not exclusive:
        tried += [Decision(threshold=t) for t in (0.2, 0.35, 0.65, 0.8)]
        tried += [Decision(fill=True), Decision(threshold=0.35, min_area=0.01), Decision(threshold=0.65, min_area=0.01)]
    if objects:
        tried += [Decision(split=split) for split in (0.3, 0.5, 0.7)]
    own = [Action((d,) * classes) for d in tried]
    return own + [Action((UNTUNED,) * classes, m) for m in range(members)] * (members > 1)


def survey(
    source: Source, actions: Sequence[Action], goal: Goal | None = None, made: Sequence[Action] | None = None
) -> Survey:
    """Return what the actions make of every image, and the objects of its untuned masks.

    `made`: how the actions are carried out where that is not as they are told (thresholds moved to other maps).
    """
    made = actions if made is None else made

    def one(i: int) -> tuple[Array, Array, Array, Array]:
        view = _View.of(source, i)
        score = scorer(goal.metric, goal.truth, int(goal.rows[i])) if goal else None
        features, stats = {}, {}
        for places, mask, maps in view.masks(made):
            seen = view.of_mask(mask)
            found = score(mask, maps, made[places[0]].setting) if score else np.zeros(0)
            for a in places:
                action = actions[a]
                features[a] = np.r_[seen, of_action(action.setting, action.member >= 0, 0.0)]
                stats[a] = found
        objects = view.objects()
        value = _values(goal, i, view) if goal else np.full(len(objects), np.nan)
        order = range(len(actions))
        return np.array([features[a] for a in order]), np.array([stats[a] for a in order]), objects, value

    parts = stream(one, len(source))
    owner = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    features, stats = (np.stack([part[j] for part in parts]) for j in (0, 1))
    objects, value = (np.concatenate([part[j] for part in parts]) for j in (2, 3))
    return Survey(features.astype(np.float32), stats, objects, owner, value)


def prune(source: Source, owner: Array, values: Array, goal: Goal | None = None) -> tuple[Array, Array]:
    """Return features (N V P F) and statistics (N V P k) of the untuned masks without objects below each of P cuts.

    `values` (V n) are V opinions on the n objects of a survey, `owner` (n,) the image of each.
    """
    ends = np.searchsorted(owner, np.arange(len(source) + 1))

    def one(i: int) -> tuple[Array, Array]:
        view, mine = _View.of(source, i), values[:, ends[i] : ends[i + 1]]
        score = scorer(goal.metric, goal.truth, int(goal.rows[i])) if goal else None
        setting, known = (UNTUNED,) * len(view.p), {}
        features, stats = [], []
        for opinion in mine:
            for cut in CUTS:
                stay = opinion >= cut
                if stay.tobytes() not in known:
                    mask = view.without(np.flatnonzero(~stay))
                    found = score(mask, view.maps, setting) if score else np.zeros(0)
                    known[stay.tobytes()] = view.of_mask(mask), found
                seen, found = known[stay.tobytes()]
                features.append(np.r_[seen, of_action(setting, False, cut)])
                stats.append(found)
        return np.array(features, np.float32), np.array(stats)

    parts = stream(one, len(source))
    shape = (len(source), len(values), len(CUTS), -1)
    features, stats = (np.stack([part[j] for part in parts]) for j in (0, 1))
    return features.reshape(shape), stats.reshape(*shape[:3], stats.shape[-1])


def mask_of(source: Source, i: int, action: Action, gone: Array | None = None) -> Array:
    """Return the mask (C H W) of a candidate: an action, or the untuned mask without the objects `gone` (positions)."""
    if gone is not None:
        return _View.of(source, i).without(gone)
    maps = source.maps if action.member < 0 else source.members[action.member]
    mask = decide(maps[i], maps.present(i), action.setting, source.size(i), source.exclusive)
    return source.beside.fill(i, mask) if action.fill and source.beside else mask


@dataclass(frozen=True)
class _View:
    """An image as the features see it: maps, presence, those of the members, all of them at full size too (C H W)."""

    source: Source
    i: int
    maps: Array
    present: Array
    p: Array
    members: Array
    plain: Array
    image: Array

    @classmethod
    def of(cls, source: Source, i: int) -> _View:
        maps, present, size = source.maps[i], source.maps.present(i), source.size(i)
        classes = len(present)
        p = resize(maps[:classes], size)
        members = np.array([resize(m[i][:classes], size) for m in source.members]).reshape(-1, *p.shape)
        plain = decide(maps, present, UNTUNED, size, source.exclusive)
        some = source.some
        image = np.r_[of_image(p[some], present[some], members[:, some]), source.statistics[i]]
        return cls(source, i, maps, present, p, members, plain, image)

    def masks(self, actions: Sequence[Action]) -> Iterator[tuple[list[int], Array, Array]]:
        """Yield each distinct mask with the places of the actions that make it, and the maps it is of."""
        source, size = self.source, self.source.size(self.i)
        own = [a for a, action in enumerate(actions) if action.member < 0 and not action.fill]
        grid = [actions[a].setting for a in own]
        for places, mask in variants(self.maps, self.present, grid, size, source.exclusive):
            yield [own[g] for g in places], mask, self.maps
        for a, action in enumerate(actions):
            if action.fill:
                yield [a], mask_of(source, self.i, action), self.maps
            elif action.member >= 0:
                yield [a], mask_of(source, self.i, action), source.members[action.member][self.i]

    def of_mask(self, mask: Array) -> Array:
        """Return the features of the image and of a mask."""
        some = self.source.some
        members = self.members[:, some] > 0.5
        return np.concatenate([self.image, of_mask(self.p[some], mask[some], self.plain[some], members)])

    def labels(self) -> Iterator[tuple[int, Array, Array, Array]]:
        """Yield for each class its labels, their areas, and those that may be dropped, in order."""
        if self.source.exclusive:
            return
        for c in np.arange(len(self.plain))[self.source.some].tolist():
            found, areas = components(self.plain[c])
            yield c, found, areas, np.sort(np.argsort(-areas[1:], kind="stable")[:MOST]) + 1

    def objects(self) -> Array:
        """Return the features (n O) of the objects of the untuned masks, class by class."""
        found = [np.zeros((0, len(OBJECT)))]
        for c, labels, areas, chosen in self.labels():
            own = of_objects(self.p[c], labels, areas, chosen, self.members[:, c])
            beside = [c, self.plain[c].mean(), self.present[c]]
            found.append(np.column_stack([own, np.tile(beside, (len(own), 1))]))
        return np.concatenate(found)

    def without(self, gone: Array) -> Array:
        """Return the untuned masks without some objects, by their positions among all of the image."""
        out, at = self.plain.copy(), 0
        for c, labels, areas, chosen in self.labels():
            kept = np.ones(len(areas), bool)
            kept[0], kept[chosen] = False, ~np.isin(np.arange(at, at + len(chosen)), gone)
            out[c], at = kept[labels], at + len(chosen)
        return out


def _values(goal: Goal, i: int, view: _View) -> Array:
    """Return the true value (n,) of an image's objects: the share of their pixels that are mask.

    Where the metric is of objects: the IoU with the best true object, 0 where it is no hit at a half.
    """
    row, found = int(goal.rows[i]), [np.zeros(0)]
    for c, labels, areas, chosen in view.labels():
        if goal.metric.objects:
            found.append(best_iou(labels, areas, goal.truth.instances(row))[chosen])
        else:
            found.append((np.bincount(labels[goal.truth[row][c]], minlength=len(areas)) / np.maximum(areas, 1))[chosen])
    return np.concatenate(found)


def best_iou(labels: Array, areas: Array, instances: Array) -> Array:
    """Return for each label (0: background) its IoU with the best of the instances (H W), 0 up to a half."""
    count = int(instances.max(initial=0)) + 1
    table = np.bincount(labels.ravel().astype(np.int64) * count + instances.ravel(), minlength=len(areas) * count)
    both = table.reshape(len(areas), count).astype(np.float64)
    both, size = both[:, 1:], both[:, 1:].sum(0)
    ious = both / np.maximum(areas[:, None] + size - both, 1)
    best = ious.max(1, initial=0.0)
    return np.where(best > 0.5, best, 0.0)
