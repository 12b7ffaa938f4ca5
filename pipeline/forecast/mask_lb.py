"""Post-processing of a run with masks: masks chosen by their predicted scores, and the shelf that this leaves.

Of a blend with fitted weights the predictor of fold k learns from rows whose weights saw the labels of fold k (its
rivals do not: see `mask_ensemble.apart`). That flatters nothing: in 60 such blends (four members, 60 images in 3 folds,
in half of them masks by chance) TGS precision was .0055 +- .0028 lower than with rows mixed for each fold by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.forecast.level import Match
from pipeline.forecast.mask_fill import Beside
from pipeline.forecast.mask_match import IMAGES, Views, match_masks
from pipeline.forecast.mask_survey import Action, Goal, Source, mask_of
from pipeline.forecast.mask_worth import worth
from pipeline.forecast.masks import Decided, Output, process
from pipeline.masks.decide import Decision, components, objects_of
from pipeline.masks.maps import Averaged, InTurn, pack, write_flat
from pipeline.scoring.mask_choice import Choice, as_decision, report
from pipeline.scoring.mask_ensemble import apart
from pipeline.scoring.mask_shelf import Scene, choose_masks, mover
from pipeline.scoring.mask_variants import Shown
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, atomic, require_space

COVER = (0.05, 0.95)


@dataclass(frozen=True)
class Below:
    """The run that is built on: the rows as it shows them, its shelf and receipt, and how the runs below it do.

    `links` (M 4) are rows of the table that touch, where masks may be continued: one, another, the step down and right.
    """

    scene: Scene
    files: RunFiles
    receipt: dict[str, Any]
    leaves: dict[str, dict[str, Any]]
    links: Array | None = None

    def source(self, name: str, rows: Array, statistics: Array) -> Source:
        """Return the images of some rows of the table, whose maps lie in the files called `name`."""
        maps = [scene.maps(getattr(RunFiles(run), name), rows) for run, scene in self._members()]
        return self._seen(self.scene.maps(getattr(self.files, name), rows), maps, rows, statistics)

    def one_each(self, some: Array, statistics: Array) -> Source:
        """Return some test images (positions) as one model a row shows them: of the folds' models each in turn."""
        rows, folds = self.scene.table.test, self.receipt["folds"]

        def of(run: str, scene: Scene, repeats: int) -> InTurn:
            paths = [[RunFiles(run).fold(k, r).test for r in range(repeats)] for k in folds]
            return InTurn([Averaged([scene.maps(path, rows) for path in each]) for each in paths], some)

        members = [of(run, scene, self.leaves[run].get("repeats", 1)) for run, scene in self._members()]
        maps = of(self.files.run, self.scene, self.receipt.get("repeats", 1))
        return self._seen(maps, members, rows[some], statistics[some])

    def _members(self) -> list[tuple[str, Scene]]:
        """Return the trained runs below where there are several, and the scene of each."""
        return [(run, replace(self.scene, **told["maps"])) for run, told in self.leaves.items() if len(self.leaves) > 1]

    def _seen(self, maps: Shown, members: Sequence[Shown], rows: Array, statistics: Array) -> Source:
        scene = self.scene
        exclusive, scored = scene.truth.kind == "exclusive", scene.problem.scored_classes
        beside = None if self.links is None else Beside.of(scene.truth, self.links, rows, scene.table.folds)
        return Source(maps, members, scene.table.sizes[rows], statistics, exclusive, scored, beside)


@dataclass(frozen=True)
class Processed:
    """A run after post-processing: scored rows and test rows as decided, what it scores, its shelf in words.

    `shown` and `decision` are what a receipt says of the maps and of how they are decided; `actual` the contributions
    of the scored rows, `ends` low and high of 90 % intervals of the scored rows, then of the test rows; `apparent` what
    the predictor gives the mean of the models beyond one model a row.
    """

    output: Output
    test: Decided
    report: dict[str, Any]
    decision: dict[str, Any]
    shown: dict[str, Any]
    method: str
    actual: Array
    ends: tuple[Array, Array]
    match: Match
    apparent: float


def post_process(below: Below, files: RunFiles, statistics: Array, submitted: int) -> Processed:
    """Choose the masks, write `oof.npy` and `test.npy`, score them; `statistics` (N S) of scored and test images.

    Where no rule is adopted the maps and the decision of the run below are kept. `submitted`: how many test rows are.
    """
    scene, n = below.scene, len(below.scene.table.scored)
    output, test, choice = decide_all(below, statistics)
    problem, final, shown = scene.problem, choice, scene.shown
    decision, method = below.receipt["decision"], below.receipt["config"]["decision"]
    if output.adopted:
        plain = write_masks(files, scene, output.oof, test)
        final, _ = choose_masks(plain, plain.maps(files.oof, scene.table.scored), "fixed", grid=False)
        decision, method, shown = as_decision(final), "fixed", plain.shown
    else:
        keep_maps(below.files, files)
    actual = worth(problem, final.stats[:, None], final.stats)[:, 0]
    some = np.unique(np.linspace(0, submitted - 1, min(submitted, IMAGES)).astype(int))
    one = output.plan.apply(below.one_each(some, statistics[n:]))
    return Processed(
        output, test, report(problem, final), decision, shown, method, actual,
        ends_of(problem, output.oof.predicted, actual, test.predicted),
        match_masks(problem, problem.judge(choice.stats), Views.of(scene, below.files, below.receipt)),
        float(test.predicted[some].mean() - one.predicted.mean()),
    )  # fmt: skip


def decide_all(below: Below, statistics: Array) -> tuple[Output, Decided, Choice]:
    """Try the rules on the scored rows and apply what is deployed to the test rows."""
    scene, table = below.scene, below.scene.table
    source = below.source("oof", table.scored, statistics[: len(table.scored)])
    method = below.receipt["config"]["decision"]
    # Rivals are tuned even where the run's own decision is not.
    oof = scene.maps(below.files.oof, table.scored)
    choice, _ = choose_masks(scene, oof, method, apart=apart(scene, below.receipt))
    goal = Goal(scene.problem.mask_metric, scene.truth, table.scored)
    output = process(scene.problem, source, goal, choice)
    move, untuned = mover(scene, below.files, below.receipt), (Decision(),) * scene.truth.classes
    # As in `mask_shelf.deployed` thresholds move to the mean of models, and untuned ones stay.
    test = output.plan.apply(
        below.source("test", table.test, statistics[len(table.scored) :]),
        move=lambda setting: setting if setting == untuned else move(setting),
    )
    return output, test, choice


def write_masks(files: RunFiles, scene: Scene, oof: Decided, test: Decided) -> Scene:
    """Write decided masks as maps of 0 and 1, which the untuned decision decides back; return their scene."""
    plain = replace(scene, extra=0, scale=1.0)
    pairs = [(files.oof, oof, scene.table.scored), (files.test, test, scene.table.test)]
    require_space(files.folder, 2 * sum(plain.layout(rows).total for _, _, rows in pairs), "the decided masks")
    objects, ones = scene.problem.mask_metric.objects, np.ones(scene.truth.classes)
    for path, made, rows in pairs:
        masks = (final_mask(made, i, objects) for i in range(len(rows)))
        write_flat(path, (pack(mask, ones) for mask in masks), plain.layout(rows).total)
    return plain


def evidence(made: Processed) -> dict[str, Any]:
    """Return what is told of a run: what was tried and adopted, and of each row (in the order of its maps) how.

    `which` is the place of an action, or past the last one where objects were dropped from the untuned mask.
    """

    def how(decided: Decided) -> dict[str, Any]:
        actions = [action.as_dict() for action in decided.actions]
        return {"actions": actions, "which": decided.which.tolist()}

    output = made.output
    facts = {"adopted": output.adopted, "by_fold": output.by_fold, "strict": False, **output.evidence}
    facts |= {"apparent": made.apparent, "match": {"gain": made.match.gain, "se": made.match.se}}
    return facts | ({"oof": how(output.oof), "test": how(made.test)} if output.adopted else {})


def read_back(below: Below, plain: Scene, files: RunFiles, name: str, told: dict[str, Any]) -> Array:
    """Return which rows of `oof` or `test` are not the masks that `evidence` tells of (positions).

    Where objects were dropped what is left must be whole components of the untuned mask.
    """
    rows = getattr(plain.table, "scored" if name == "oof" else name)
    source, maps = below.source(name, rows, np.zeros((len(rows), 0))), plain.maps(getattr(files, name), rows)
    objects = plain.problem.mask_metric.objects
    actions = [Action.from_dict(action) for action in told["actions"]]
    known = Decided(source, actions, np.array(told["which"]), np.zeros(len(rows)), np.zeros(0), np.zeros(0))

    def right(i: int) -> bool:
        there = maps[i] == 1
        if not ((maps[i] == there).all() and (maps.present(i) == 1).all()):
            return False
        if known.which[i] < len(actions):
            return bool((there == final_mask(known, i, objects)).all())
        whole = mask_of(source, i, actions[0])
        return all(_of_whole(mine, components(full)[0]) for mine, full in zip(there, whole, strict=True))

    return np.array([i for i in range(len(rows)) if not right(i)], np.int64)


def _of_whole(mask: Array, labels: Array) -> bool:
    """Say whether a mask (H W) is made of whole components (labels H W)."""
    most = int(labels.max(initial=0)) + 1
    kept, full = (np.bincount(each.ravel(), minlength=most) for each in (labels[mask], labels))
    return bool(kept[0] == 0 and ((kept == 0) | (kept == full))[1:].all())


def final_mask(made: Decided, i: int, objects: bool) -> Array:
    """Return the mask (C H W bool) of an image; where objects count they are parted, so that components tell them."""
    mask, at = made.mask(i), int(made.which[i])
    if not objects or at >= len(made.actions) or not made.actions[at].setting[0].split:
        return mask
    action = made.actions[at]
    maps = made.source.maps if action.member < 0 else made.source.members[action.member]
    return parted(objects_of(mask[0], maps[i], action.setting[0]))[None]


def parted(labels: Array) -> Array:
    """Return the mask of objects (H W int) without the pixels by which one touches another of a smaller number."""
    mask = labels > 0
    for axis in (0, 1):
        for step in (-1, 1):
            near = np.roll(labels, step, axis)
            edge = [slice(None)] * 2
            edge[axis] = slice(-1, None) if step < 0 else slice(0, 1)
            near[tuple(edge)] = 0
            mask &= ~((near > 0) & (near < labels))
    return mask


def keep_maps(below: RunFiles, files: RunFiles) -> None:
    """Copy the maps of the run below, byte by byte."""
    paths: list[tuple[Path, Path]] = [(below.oof, files.oof), (below.test, files.test)]
    require_space(files.folder, sum(source.stat().st_size for source, _ in paths), "a copy of the maps")
    for source, path in paths:
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)


def ends_of(problem: Problem, predicted: Array, actual: Array, test: Array) -> tuple[Array, Array]:
    """Return low and high of 90 % intervals of scored and test rows: of a fold by what the other folds' rows missed."""
    rest, folds = actual - predicted, problem.folds
    low, high = (np.r_[predicted, test] + np.quantile(rest, q) for q in COVER)
    for k in np.unique(folds).tolist():
        mine = np.flatnonzero(folds == k)
        for ends, q in zip((low, high), COVER, strict=True):
            ends[mine] = predicted[mine] + np.quantile(rest[folds != k], q)
    if problem.metric.rows is not None:
        bounds = problem.metric.bounds
        low, high = low.clip(*bounds), high.clip(*bounds)
    return np.minimum(low, np.r_[predicted, test]), np.maximum(high, np.r_[predicted, test])
