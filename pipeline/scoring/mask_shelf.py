"""What runs with masks leave on their shelves: rows of maps put together, means of models, where each row lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.masks.decide import decide, objects_of
from pipeline.masks.maps import Layout, Maps, gather, layout, mean_of, write_mean
from pipeline.masks.truth import Truth, read_truth
from pipeline.scoring.holdout import judged, tell
from pipeline.scoring.mask_choice import Choice, as_decision, choose, from_decision, gate_gain, report
from pipeline.scoring.mask_variants import Setting, Shown, default_grid, measure
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition
from pipeline.store.files import Array, read_json, read_npy
from pipeline.tasks import Task

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table

# Thresholds are moved in steps of one part in so many.
LEVELS = 200


@dataclass(frozen=True)
class Scene:
    """The rows of a competition with masks, and how a run shows them: `extra` further maps, at a `scale`."""

    table: Table
    truth: Truth
    problem: Problem
    extra: int
    scale: float

    @classmethod
    def of(
        cls, files: RunFiles, competition: Competition, table: Table, task: Task, metric: Metric, shown: dict[str, Any]
    ) -> Scene:
        """Return the scene of a run whose receipt says `maps` is `shown`."""
        truth = read_truth(files.competition, table, competition)
        return cls(table, truth, Problem.of(table, task, metric), shown["extra"], shown["scale"])

    @property
    def shown(self) -> dict[str, Any]:
        """Return what a receipt says of the run's maps."""
        return {"extra": self.extra, "scale": self.scale}

    def layout(self, rows: Array) -> Layout:
        """Return how some rows of the table lie in a flat array."""
        return layout(self.table.sizes[rows], len(self.table.classes), self.extra, self.scale)

    def maps(self, path: Path, rows: Array) -> Maps:
        """Return the maps of some rows of the table that a file holds."""
        return Maps(read_npy(path), self.layout(rows))


def put_together(files: RunFiles, scene: Scene) -> None:
    """Write a trained run's out-of-fold maps: of a row the mean over repeats of the models that left it out."""
    where, splits, parts = scene.layout(scene.table.scored), scene.table.splits, []
    for r, table in enumerate(splits):
        folds = table.folds[table.scored]
        flats = {k: read_npy(files.fold(k, r).oof) for k in np.unique(folds).tolist()}
        parts.append(files.oof if len(splits) == 1 else files.repeat_oof(r))
        gather(parts[-1], where, flats, folds)
    if len(splits) > 1:
        write_mean(files.oof, [read_npy(path) for path in parts])
        for path in parts:
            path.unlink()


@dataclass(frozen=True)
class Mixed:
    """Maps of M runs as one, mixed when they are asked for: with `weights` (N M) of each row."""

    members: Sequence[Maps]
    weights: Array

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, i: int) -> Array:
        """Return the maps (C+E h w, float32) of a row."""
        return np.asarray(sum(w * m[i] for w, m in self._of(i)), np.float32)

    def present(self, i: int) -> Array:
        """Return the probabilities (C, float32) that a class is there at all."""
        return np.asarray(sum(w * m.present(i) for w, m in self._of(i)), np.float32)

    def size(self, i: int) -> tuple[int, int]:
        """Return height and width of the maps of a row."""
        return self.members[0].size(i)

    def _of(self, i: int) -> Iterator[tuple[float, Maps]]:
        return zip(self.weights[i].tolist(), self.members, strict=True)


def same_rows(one: Array, other: Array, where: Layout, close: float = 0.0) -> Array:
    """Return which rows (N, bool) of two flat arrays agree to within `close`."""
    return same_as_mean(one, [other], where, close)


def same_as_mean(
    one: Array, flats: Sequence[Array], where: Layout, close: float = 0.0, shares: Sequence[float] | None = None
) -> Array:
    """Return which rows (N, bool) of a flat array agree to within `close` with the weighted mean of others."""
    weights = None if shares is None else np.asarray(shares, np.float32)
    if any(len(flat) != where.total for flat in (one, *flats)):
        return np.zeros(len(where), bool)
    ends = zip(where.starts[:-1].tolist(), where.starts[1:].tolist(), strict=True)
    return same_stretches(one, (mean_of([flat[a:b] for flat in flats], weights) for a, b in ends), where, close)


def same_stretches(one: Array, rows: Iterable[Array], where: Layout, close: float) -> Array:
    """Return which rows (N, bool) of a flat array agree to within `close` with stretches that come one by one."""
    found = np.empty(len(where), bool)
    for i, row in enumerate(rows):
        mine = one[where.starts[i] : where.starts[i + 1]].astype(np.float32)
        found[i] = np.abs(mine - row).max() <= close
    return found


def score_maps(
    scene: Scene, maps: Maps, method: str, apart: Mapping[int, Shown] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of out-of-fold maps (see `mask_choice.report`) and the cross-fitted decision."""
    choice, gate = choose_masks(scene, maps, method, grid=method != "fixed", apart=apart)
    found = report(scene.problem, choice)
    return found | ({"empty_gate": gate()} if method != "fixed" else {}), as_decision(choice)


def choose_masks(
    scene: Scene, maps: Maps, method: str, grid: bool = True, apart: Mapping[int, Shown] | None = None
) -> tuple[Choice, Callable[[], dict[str, float] | None]]:
    """Return the choice for out-of-fold maps, and what gives the gain of empty gates.

    Without `grid` only the untuned setting is measured: what a fixed decision needs. `apart` are the maps of the rows
    of all other folds, by which those folds choose that may not see them as they are scored (`mask_ensemble.apart`).
    """
    metric, truth = scene.problem.mask_metric, scene.truth
    scored, folds = scene.table.scored, scene.problem.folds
    head = any((maps.present(i) < 1).any() for i in range(len(maps)))
    # Where a file holds masks, not objects, what was split would be one again.
    split = metric.objects and truth.kind == "objects"
    tried = default_grid(truth.classes, truth.kind == "exclusive", head, split, scene.problem.scored_classes)
    tried = tried if grid else tried[:1]

    def statistics(settings: list[Setting], fold: int | None = None) -> Array:
        if fold is None or apart is None:
            return measure(maps, truth, scored, settings, metric)
        mine, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        own = measure(maps.part(mine), truth, scored[mine], settings, metric)
        found = np.empty((len(folds), *own.shape[1:]))
        found[mine], found[others] = own, measure(apart[fold], truth, scored[others], settings, metric)
        return found

    stats, seen = statistics(tried), {k: statistics(tried, k) for k in (apart or {} if grid else {})}
    tuned = choose(scene.problem, tried, stats, "optimal" if method == "fixed" else method, statistics, seen)
    choice = untuned(tuned, tried[0]) if method == "fixed" else tuned
    return choice, lambda: gate_gain(scene.problem, tried, stats, statistics, seen)


def untuned(tuned: Choice, setting: Setting) -> Choice:
    """Return the choice of the untuned setting that knows how well tuned ones do."""
    ks, fixed = tuned.by_fold, tuned.fixed
    by_fold, methods = dict.fromkeys(ks, setting), dict.fromkeys(ks, "fixed")
    return replace(
        tuned, by_fold=by_fold, methods=methods, deployed=setting, method="fixed", stats=fixed, in_sample=fixed
    )


def decided(scene: Scene, maps: Maps, rows: Array, setting: Setting) -> Iterator[Array]:
    """Yield the masks of rows of the table one at a time: C H W bool, or where objects count H W of their numbers."""
    objects = scene.truth.kind == "objects"
    for i, size in enumerate(scene.table.sizes[rows].tolist()):
        seen = maps[i]
        mask = decide(seen, maps.present(i), setting, (size[0], size[1]), scene.truth.kind == "exclusive")
        yield objects_of(mask[0], seen, setting[0], scene.truth.classes) if objects else mask


def deployed(scene: Scene, files: RunFiles, shelf: dict[str, Any]) -> tuple[Setting, dict[str, Any]]:
    """Return by what the test maps, the mean of several models', are decided, and what a receipt says of it.

    Tuned thresholds belong to one model a row: for the mean they are moved to where it leaves as many pixels as the
    models do on average. Untuned ones stay. An `lb` run that changed nothing has the maps of the run below.
    """
    decision = shelf["decision"]
    setting = from_decision(decision)
    if decision["method"] == "fixed":
        return setting, {"method": "fixed", "deployed": decision["masks"]}
    if shelf.get("stage") == "lb":
        below = RunFiles(shelf["parents"][0]["run"])
        return deployed(scene, below, read_json(below.receipt))
    moved = mover(scene, files, shelf)(setting)
    told = [d.as_dict() for d in moved]
    return moved, {"method": decision["method"], "one_model": decision["masks"], "deployed": told}


def mover(scene: Scene, files: RunFiles, shelf: dict[str, Any]) -> Callable[[Setting], Setting]:
    """Return what moves thresholds of one model a row to the mean of a run's models (its receipt is `shelf`)."""
    models = [read_npy(files.fold(k, r).test) for k in shelf["folds"] for r in range(shelf.get("repeats", 1))]
    return moving(scene.layout(scene.table.test), models, read_npy(files.test))


def moving(where: Layout, models: Sequence[Array], mean: Array) -> Callable[[Setting], Setting]:
    """Return what moves thresholds so that the mean of models leaves as many pixels as they do on average."""
    shares, of_mean = np.mean([_above(where, flat) for flat in models], 0), _above(where, mean)

    def moved(c: int, level: float) -> float:
        at = round(level * LEVELS)
        gaps = np.abs(of_mean[c] - shares[c, at])
        alike = np.flatnonzero(gaps <= gaps.min() + 1e-12)  # of levels that leave as many the nearest to the old one
        return round(float(alike[np.abs(alike - at).argmin()] / LEVELS), 4) if level else level

    def move(setting: Setting) -> Setting:
        return tuple(replace(d, threshold=moved(c, d.threshold), top=moved(c, d.top)) for c, d in enumerate(setting))

    return move


def look_at_maps(scene: Scene, files: RunFiles, shelf: dict[str, Any]) -> dict[str, Any]:
    """Score a run's `holdout.npy` as a submission would be decided, say so, and count the look."""
    table, metric = scene.table, scene.problem.metric
    problem = Problem.of(table, scene.problem.task, metric, table.holdout)
    maps, (setting, _) = scene.maps(files.holdout, table.holdout), deployed(scene, files, shelf)
    stats = measure(maps, scene.truth, table.holdout, [setting], problem.mask_metric)
    return tell(files, metric, judged(problem, stats[:, 0]))


def _above(where: Layout, flat: Array) -> Array:
    """Return the share of pixels of each class (C L+1) above each of the levels 0, 1/L, ... 1."""
    counts = np.zeros((where.classes, LEVELS + 1))
    for i in range(len(where)):
        height, width = where.sizes[i].tolist()
        start = int(where.starts[i])
        maps = flat[start : start + where.classes * height * width].reshape(where.classes, -1)
        for c, p in enumerate(maps):
            # The number of levels that lie below each pixel.
            below = np.ceil(p.astype(np.float32) * LEVELS).astype(np.int64).clip(0, LEVELS + 1)
            counts[c] += np.bincount(below, minlength=LEVELS + 2)[::-1].cumsum()[::-1][1:]
    return counts / max(int(where.sizes.astype(np.int64).prod(1).sum()), 1)
