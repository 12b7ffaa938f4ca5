"""What a run and the trained runs below it know of every row, read from their shelves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.difficulty.labels import disagreement
from pipeline.difficulty.tags import Seen, known_mean
from pipeline.difficulty.ties import Reader
from pipeline.images.cache import cached
from pipeline.scoring.features import image_statistics, in_model
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_json, read_npy
from pipeline.store.shelves import as_out_of_fold
from pipeline.store.table import Table, half_of

# Neighbours are looked for among at most so many training rows: the cost is rows x references.
REFERENCES = 20_000


@dataclass(frozen=True)
class Case:
    """N scored rows, then T test rows, as a run and the trained runs below it (its leaves, `members`) know them."""

    run: RunFiles
    competition: Competition
    table: Table
    problem: Problem
    shelf: dict[str, Any]
    members: dict[str, dict[str, Any]]

    @property
    def leaves(self) -> list[RunFiles]:
        """Return the shelves of the trained runs."""
        return [RunFiles(name) for name in self.members]

    @property
    def folds(self) -> list[int]:
        """Return the folds."""
        return [int(k) for k in self.shelf["folds"]]

    def folds_in(self, repeat: int) -> Array:
        """Return the folds of the scored rows (N,) in a repeat."""
        return np.asarray(self.table.repeats[self.table.scored, repeat])

    @cached_property
    def rows(self) -> Array:
        """Return the table positions of all rows."""
        return np.concatenate([self.table.scored, self.table.test])

    @cached_property
    def images(self) -> list[Array]:
        """Return the decoded images of the scored rows and of the test rows, at the size of the first leaf."""
        table, size = self.table, next(iter(self.members.values()))["config"]["image"]["size"]
        shape = [size, size] if isinstance(size, int) else size
        parts = [(table.paths[rows], table.digests[rows]) for rows in (table.scored, table.test)]
        return [cached(self.run.competition, *part, self.competition.images, shape)[0] for part in parts]

    def models(self, leaf: RunFiles, k: int, repeat: int = 0) -> list[tuple[FoldFiles, Array]]:
        """Return the models of a fold and the rows (a mask) each answers for: two where it was trained in halves."""
        shelf = leaf.fold(k, repeat)
        mine = np.r_[self.folds_in(repeat) == k, np.ones(len(self.table.test), bool)]
        if "halves" not in read_json(shelf.receipt):
            return [(shelf, mine)]
        half = half_of(self.table.ids[self.rows])
        return [(shelf.half(h), mine & (half == 1 - h)) for h in (0, 1)]

    def decide(self, prediction: Array, fold: int | None) -> Array:
        """Return labels by the run's cuts of a fold, or by the deployed ones."""
        decision, task = self.shelf["decision"], self.problem.task
        if decision is None:
            return task.decide(prediction, task.default_cuts(self.problem.classes))
        return task.decide(prediction, np.array(decision["cuts"] if fold is None else decision["by_fold"][str(fold)]))

    def say(self, labels: Array) -> list[str]:
        """Return labels or values in words."""
        task, names = self.problem.task, self.table.classes
        if task.name == "regression":
            return [" ".join(f"{value:.4g}" for value in row) for row in labels]
        if task.name == "multilabel":
            return [" ".join(name for name, there in zip(names, row, strict=True) if there) for row in labels]
        return [names[int(label)] for label in labels]


def read(path: Path) -> Array:
    """Read an array that a run leaves beside its predictions, once the run is of today."""
    if not path.exists():
        raise UserError(f"{path} is missing: delete the fold.json beside it and run make train again")
    return read_npy(path)


def gather(case: Case, neighbours: int) -> Seen:
    """Read what the run and its leaves know; where rows are split several times, of models those of the first time."""
    problem, oof = case.problem, np.array(read_npy(case.run.oof))
    labels = np.zeros_like(problem.y)
    for k in case.folds:
        labels[problem.folds == k] = case.decide(oof[problem.folds == k], k)
    looks, test_looks, other = look(case, neighbours)
    shelves = [(case.run.run, case.shelf), *case.members.items()]
    repeats = [(run, receipt.get("repeats", 1)) for run, receipt in shelves]
    tests = {k: np.stack([as_out_of_fold(run, count, k) for run, count in repeats]) for k in case.folds}
    return Seen(
        problem,
        oof,
        labels,
        np.stack([read_npy(leaf.oof) for leaf in case.leaves]),
        dynamics(case, 0),
        looks,
        other,
        tests,
        test_looks,
        np.concatenate([image_statistics(images) for images in case.images]),
    )


def within(case: Case, seen: Seen, repeat: int, strict: bool) -> Seen:
    """Return what is known with the folds of one repeat and by its models alone, which are blind to its folds."""
    leaves = [case.leaves[0], *case.leaves]  # of a blend there is no model: nothing that is blind asks for its own
    return replace(
        seen,
        problem=replace(seen.problem, folds=case.folds_in(repeat)),
        epochs=dynamics(case, repeat),
        test={k: np.stack([read_npy(shelf.fold(k, repeat).test) for shelf in leaves]) for k in case.folds},
        pairs={k: pairs_of(case, k, repeat) for k in case.folds} if strict else None,
    )


def dynamics(case: Case, repeat: int) -> dict[int, Array]:
    """Return what the models of each fold thought of their training rows (N x (P + 4)), mean over the leaves."""
    found = {k: [e for leaf in case.leaves for e in epochs_of(case, leaf, k, repeat)] for k in case.folds}
    return {k: known_mean(epochs) for k, epochs in found.items()}


def epochs_of(case: Case, leaf: RunFiles, k: int, repeat: int) -> list[Array]:
    """Return `epochs.npy` of the models of a fold, and whether the AUM is below that of indicator samples."""
    found = []
    for model, _ in case.models(leaf, k, repeat):
        seen = np.array(read(model.epochs), np.float64)
        threshold = read_json(model.receipt).get("indicators", {}).get("threshold", -np.inf)
        found.append(np.column_stack([seen, np.where(np.isnan(seen[:, -2]), np.nan, seen[:, -2] < threshold)]))
    return found


def look(case: Case, neighbours: int) -> tuple[Array, dict[int, Array], Array]:
    """Return spread over views and distance to the nearest training rows, inside each model, mean over leaves.

    Of the scored rows (N 2) by the models of their fold, of the test rows (T 2) by those of each fold; then how far the
    scored rows' labels are from those of these neighbours (N,).
    """
    problem, n, share = case.problem, len(case.problem.y), 1 / len(case.members)
    scored, test, other = np.zeros((n, 2)), {}, np.zeros(n)
    for k in case.folds:
        known = np.flatnonzero(problem.folds != k)
        known = known[:: -(-len(known) // REFERENCES)]
        seen = np.zeros((len(case.rows), 2))
        for leaf in case.leaves:
            seen[:, 0] += share * np.asarray(read(leaf.fold(k).spread))
            for model, answers in case.models(leaf, k):
                embeddings, held = read(model.embeddings), answers[:n]
                references = embeddings[known]
                away, labels = in_model(embeddings[answers], references, neighbours, problem.y[known])
                assert labels is not None
                seen[answers, 1] += share * away
                other[held] += share * disagreement(problem.part(held), labels[: held.sum()])
        scored[problem.folds == k], test[k] = seen[:n][problem.folds == k], seen[n:]
    return scored, test, other


def pairs_of(case: Case, k: int, repeat: int) -> tuple[Array, list[Array]]:
    """Return what models that saw neither fold j nor fold k say of the rows of j (N P), and of the test rows (T P)."""
    rows, tests = np.full(read_npy(case.run.oof).shape, np.nan), []
    for j in case.folds:
        if j != k:
            shelves, mine = [leaf.pair(j, k, repeat) for leaf in case.leaves], case.folds_in(repeat) == j
            rows[mine] = np.mean([read(shelf.train)[mine] for shelf in shelves], 0)
            tests.append(np.mean([read(shelf.test) for shelf in shelves], 0))
    return rows, tests


def readers(case: Case) -> list[Reader]:
    """Return the embeddings of the scored rows in every model, the rows it trained on and those it answers for."""
    n, folds = len(case.problem.y), case.problem.folds
    return [
        Reader(read(model.embeddings)[:n], folds != k, answers[:n])
        for leaf in case.leaves
        for k in case.folds
        for model, answers in case.models(leaf, k)
    ]
