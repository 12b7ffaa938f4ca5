"""Blend the maps of runs: weights on a sample of pixels, cross-fitted; maps mixed and written row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.masks.decide import Decision
from pipeline.masks.maps import Maps, pack, write_flat, write_mean
from pipeline.scoring.mask_blend import Weights, fit_weights, sample
from pipeline.scoring.mask_shelf import Mixed, Scene
from pipeline.scoring.mask_variants import measure
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, read_npy
from pipeline.store.shelves import read_stage


@dataclass(frozen=True)
class Blend:
    """Members of a blend of maps: their shelves and how often each splits the rows, and how weights are had."""

    scene: Scene
    members: dict[str, int]
    method: str
    hand: Array | None
    seed: int

    @property
    def shelves(self) -> list[RunFiles]:
        """Return the members' shelves."""
        return [RunFiles(member) for member in self.members]

    @property
    def maps(self) -> list[Maps]:
        """Return the members' out-of-fold maps."""
        return [self.scene.maps(shelf.oof, self.scene.table.scored) for shelf in self.shelves]

    def fit(self) -> Weights:
        """Return weights (M,) of each fold, fitted without it, and deployed ones."""
        folds, m = self.scene.problem.folds, len(self.members)
        if self.method in ("uniform", "hand"):
            even = np.full(m, 1 / m) if self.hand is None else self.hand / self.hand.sum()
            ks = np.unique(folds).tolist()
            named = dict.fromkeys(ks, self.method)
            return Weights(dict.fromkeys(ks, even), named, even, self.method, None, np.zeros((len(folds), 2)))
        problem, rows = self.scene.problem, self.scene.table.scored
        drawn = sample(self.maps, self.scene.truth, rows, seed=self.seed, classes=problem.scored_classes)
        return fit_weights(drawn, folds, problem.group, self.method)

    def by_row(self, weights: Weights) -> Array:
        """Return the weights (N M) that each scored row is blended with: those of its fold."""
        return np.stack([weights.by_fold[k] for k in self.scene.problem.folds.tolist()])

    def write_oof(self, path: Path, weights: Weights) -> None:
        """Write the out-of-fold maps of the blend."""
        mixed = Mixed(self.maps, self.by_row(weights))
        parts = (pack(mixed[i], mixed.present(i)) for i in range(len(mixed)))
        write_flat(path, parts, self.scene.layout(self.scene.table.scored).total)

    def write_others(self, files: RunFiles, weights: Weights, name: str) -> list[Path]:
        """Write the `test` or `holdout` maps as deployed, and as the members' models of each fold give them."""
        deployed = getattr(files, name)
        write_mean(deployed, [read_npy(getattr(shelf, name)) for shelf in self.shelves], weights.deployed.tolist())
        paths = [deployed]
        for k, share in weights.by_fold.items():
            paths.append(getattr(files.fold(k), name))
            write_mean(paths[-1], *self._of_fold(k, share, name))
        return paths

    def _of_fold(self, k: int, share: Array, name: str) -> tuple[list[Array], list[float]]:
        """Return the maps of the members' models of a fold, one a repeat, and the weight of each."""
        flats, shares = [], []
        for (member, repeats), weight in zip(self.members.items(), share.tolist(), strict=True):
            flats += [read_npy(getattr(RunFiles(member).fold(k, r), name)) for r in range(repeats)]
            shares += [weight / repeats] * repeats
        return flats, shares

    def uniform(self) -> float:
        """Return the score of the uniform blend at the untuned decision."""
        scene, m = self.scene, len(self.members)
        mixed = Mixed(self.maps, np.full((len(scene.table.scored), m), 1 / m))
        metric, plain = scene.problem.mask_metric, (Decision(),) * scene.truth.classes
        return scene.problem.judge(measure(mixed, scene.truth, scene.table.scored, [plain], metric)[:, 0])


def apart(scene: Scene, receipt: dict[str, Any]) -> dict[int, Mixed]:
    """Return for each fold the rows of all others mixed by its weights, which never saw it; none where it is no matter.

    Of a blend with fitted weights an out-of-fold row is mixed by the weights of its own fold, which were fitted on the
    labels of all others: what is chosen for a fold on such rows would know its labels at second hand.
    """
    weights = {int(k): np.array(w) for k, w in receipt.get("weights_by_fold", {}).items()}
    if not weights or not np.ptp(np.stack(list(weights.values())), axis=0).any():
        return {}
    maps = [scene.maps(RunFiles(member).oof, scene.table.scored) for member in receipt["weights"]]
    others = {k: np.flatnonzero(scene.problem.folds != k) for k in weights}
    return {k: Mixed([m.part(at) for m in maps], np.tile(weights[k], (len(at), 1))) for k, at in others.items()}


def leaf_weights(run: str) -> dict[str, float]:
    """Return by what weights the trained runs under a run make its test maps: a blend is linear."""
    receipt, found = read_stage(run, "member", "train", "ensemble"), dict[str, float]()
    if receipt["stage"] == "train":
        return {run: 1.0}
    for member, weight in receipt["weights"].items():
        for leaf, share in leaf_weights(member).items():
            found[leaf] = found.get(leaf, 0.0) + weight * share
    return found


def refuse_unlike(shown: Sequence[dict[str, Any]]) -> str | None:
    """Say what keeps runs with other maps from being blended, None where nothing does."""
    odd = [other for other in shown if other != shown[0]]
    return f"members show their maps in different ways: {shown[0]} and {odd[0]}" if odd else None
