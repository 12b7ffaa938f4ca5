"""What runs with masks leave on their shelves: rows of maps put together, means of models, where each row lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.masks.maps import Layout, Maps, gather, layout, write_mean
from pipeline.masks.metrics import MASK_METRICS
from pipeline.masks.truth import Truth, read_truth
from pipeline.scoring.mask_choice import as_decision, choose, gate_gain, report
from pipeline.scoring.mask_variants import Setting, default_grid, measure
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition
from pipeline.store.files import Array, read_npy
from pipeline.tasks import Task

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table


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


def same_rows(one: Array, other: Array, where: Layout, close: float = 0.0) -> Array:
    """Return which rows (N, bool) of two flat arrays agree to within `close`."""
    if len(one) != where.total or len(other) != where.total:
        return np.zeros(len(where), bool)
    found = np.empty(len(where), bool)
    for i, (start, end) in enumerate(zip(where.starts[:-1].tolist(), where.starts[1:].tolist(), strict=True)):
        found[i] = np.abs(one[start:end].astype(np.float32) - other[start:end].astype(np.float32)).max() <= close
    return found


def score_maps(scene: Scene, maps: Maps, method: str, head: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of out-of-fold maps (see `mask_choice.report`) and the cross-fitted decision.

    `head`: there is a head that tells where a class is empty.
    """
    metric, truth = MASK_METRICS[scene.problem.metric.name], scene.truth
    grid = default_grid(truth.classes, truth.kind == "exclusive", head, metric.objects)

    def statistics(settings: list[Setting]) -> Array:
        return measure(maps, truth, scene.table.scored, settings, metric)

    stats = statistics(grid if method != "fixed" else grid[:1])
    choice = choose(scene.problem, grid, stats, method, statistics)
    found = report(scene.problem, choice)
    if method != "fixed":
        found["empty_gate"] = gate_gain(scene.problem, grid, stats, more=statistics)
    return found, as_decision(choice)
