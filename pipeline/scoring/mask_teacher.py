"""What teachers say of test images with masks: which may be learnt, how right such choices are, the soft masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.masks.decide import Decision
from pipeline.masks.maps import Layout, Maps, layout, pack, write_flat
from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.mask_pseudo import MaskRule, choose, facts, say_mask
from pipeline.scoring.mask_shelf import Mixed, Scene
from pipeline.scoring.mask_variants import measure
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, require_space


@dataclass(frozen=True)
class MaskTeacher:
    """The trained runs that speak for a teacher, with equal weights, and the rows as their maps show them."""

    scene: Scene
    members: Sequence[RunFiles]

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return self.scene.truth.classes

    @property
    def exclusive(self) -> bool:
        """Say whether each pixel is of one class."""
        return self.scene.truth.kind == "exclusive"

    def test(self, fold: int, repeat: int) -> Mixed:
        """Return the test maps of the members' models of a fold: blind to that fold."""
        rows = self.scene.table.test
        return self._mixed([self.scene.maps(m.fold(fold, repeat).test, rows) for m in self.members])

    def chosen(self, rule: MaskRule, fold: int, repeat: int) -> tuple[Array, Array, Array]:
        """Return which test images a rule keeps by models blind to a fold (N,), how sure these are, and coverage."""
        sure, coverage = facts(self.test(fold, repeat), self.classes, self.exclusive)
        return choose(rule, sure, coverage), sure, coverage

    def said(self, fold: int, repeat: int, rows: Array, targets: str, temperature: float) -> Iterator[Array]:
        """Yield what models blind to a fold say of some test images (positions), as stretches of `layout`."""
        maps = self.test(fold, repeat)
        for i in rows.tolist():
            yield pack(say_mask(maps[i][: self.classes], self.exclusive, targets, temperature), maps.present(i))

    def layout(self, rows: Array) -> Layout:
        """Return how the soft masks of some test images (positions) lie in a file."""
        table = self.scene.table
        return layout(table.sizes[table.test][rows], self.classes, 0, self.scene.scale)

    def expected(self, rule: MaskRule, fold: int) -> dict[str, float]:
        """Return how right a rule is on the out-of-fold rows of the *other* folds, with its error.

        `score` is the metric of the masks at one half of the kept images, `all` that of all images.
        """
        sure, coverage, stats = self._known
        other = np.flatnonzero(self.scene.problem.folds != fold)
        problem, stats = self.scene.problem.part(other), stats[other]
        kept = choose(rule, sure[other], coverage[other]).astype(np.float64)

        def score(weight: Array) -> float:
            return problem.judge(stats, weight * kept)

        error = standard_error(score, len(other), problem.group)
        return {"score": score(np.ones(len(other))), "se": error, "all": problem.judge(stats), "n": float(kept.sum())}

    @cached_property
    def _known(self) -> tuple[Array, Array, Array]:
        """Return certainty (N,), coverage (N C) and statistics (N k) of the scored rows, each by one model a member.

        It is one model that labels: of several repeats the first speaks.
        """
        scene, (plain,) = self.scene, ((Decision(),) * self.classes,)
        scored, folds, metric = scene.table.scored, scene.problem.folds, scene.problem.mask_metric
        found: list[tuple[Array, ...]] = []
        order = []
        for k in np.unique(folds).tolist():
            at = np.flatnonzero(folds == k)
            maps = self._mixed([scene.maps(m.fold(k).oof, scored[at]) for m in self.members])
            stats = measure(maps, scene.truth, scored[at], [plain], metric)[:, 0]
            found.append((*facts(maps, self.classes, self.exclusive), stats))
            order.append(at)
        back = np.argsort(np.concatenate(order))
        sure, coverage, stats = (np.concatenate(parts)[back] for parts in zip(*found, strict=True))
        return sure, coverage, stats

    def _mixed(self, maps: list[Maps]) -> Mixed:
        return Mixed(maps, np.full((len(maps[0]), len(maps)), 1 / len(maps)))


def write_labels(
    files: RunFiles, teacher: MaskTeacher, rows: dict[tuple[int, int], Array], targets: str, temperature: float
) -> None:
    """Write the soft masks of the test images (positions) that are chosen for each model (repeat, fold)."""
    need = 2 * sum(teacher.layout(at).total for at in rows.values())
    require_space(files.folder, need, "the pseudo-labels")
    for (r, k), at in rows.items():
        parts = teacher.said(k, r, at, targets, temperature)
        write_flat(files.pseudo_maps(r, k), parts, teacher.layout(at).total)
