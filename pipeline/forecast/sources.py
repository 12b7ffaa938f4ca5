"""What a forecast of a run reads: the shelves of the run and of those below it, its images, past submissions."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.problem import Problem
from pipeline.store import ledger
from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_npy
from pipeline.store.runs import Capacity, Lb
from pipeline.store.shelves import as_out_of_fold, leaves

if TYPE_CHECKING:  # they import pandas, scipy or scikit-learn, which a stage with nothing to do must not pay for
    from pipeline.forecast.candidates import View
    from pipeline.forecast.leaderboard import Submission
    from pipeline.forecast.shift import Shift
    from pipeline.forecast.views import Seen, Source
    from pipeline.store.table import Table
    from pipeline.training.job import Job as Trained


# The nearest of so many training rows, evenly chosen, say how far a row lies from what a model knows, and vote.
NEIGHBOURS, REFERENCES = 10, 20_000


# The side of images, in pixels, of which statistics are taken where there are masks.
MASKS = 64


@dataclass(frozen=True)
class Job:
    """What the stage works on: its run, the run that it builds on (`parent`) and the trained runs below (`leaves`)."""

    files: RunFiles
    config: Lb
    competition: Competition
    table: Table
    problem: Problem
    parent: dict[str, Any]
    leaves: dict[str, dict[str, Any]]

    @property
    def rows(self) -> Array:
        """Return the table positions of all rows: the scored ones, then the test rows."""
        return np.concatenate([self.table.scored, self.table.test])

    @property
    def submitted(self) -> int:
        """Return how many test rows the submission has; they come first."""
        from pipeline.store.table import TEST

        return int((self.table.folds == TEST).sum())

    @property
    def below(self) -> RunFiles:
        """Return the shelf of the run that is built on."""
        return RunFiles(self.config.run)


def statistics_of(job: Job | Trained, size: list[int]) -> Array:
    """Return statistics (N S) of the images of all rows, seen at a size."""
    from pipeline.images.cache import cached
    from pipeline.scoring.features import image_statistics

    def of(rows: Array) -> Array:
        table, competition = job.table, job.files.competition
        return image_statistics(
            cached(competition, table.paths[rows], table.digests[rows], job.competition.images, size)[0]
        )

    return np.concatenate([of(job.table.scored), of(job.table.test)])


def source_of(job: Job, decision: dict[str, Any] | None) -> Source:
    """Return where the views of the rows come from."""
    from pipeline.forecast.views import Source

    size = next(iter(job.leaves.values()))["config"]["image"]["size"]
    return Source(
        problem=job.problem,
        decision=decision,
        leaves={leaf: receipt["decision"] for leaf, receipt in job.leaves.items()},
        seen=functools.cache(functools.partial(read_model, job)),
        statistics=statistics_of(job, [size, size] if isinstance(size, int) else size),
        blocks=blocks_of(job.config.capacity or Capacity(), job.table, job.rows),
    )


def read_model(job: Job, leaf: str, held_out: tuple[int, ...]) -> Seen:
    """Read what a model of a leaf says of the rows that it did not train on: with repeats, and those like it."""
    from pipeline.forecast.views import Seen

    files = RunFiles(leaf)
    if len(held_out) == 1:
        model, repeats = files.fold(*held_out), job.leaves[leaf].get("repeats", 1)
        p = np.concatenate([read_npy(files.oof), as_out_of_fold(leaf, repeats, *held_out)])
    else:
        model = files.pair(*held_out)
        p = np.concatenate([read_npy(model.train), read_npy(model.test)])
    foreign, ids, asked = np.isin(job.problem.folds, held_out), job.table.ids[job.rows], job.config.neighbours
    said = votes(model, ids, foreign, job.table.scored, job.problem.ideal, asked) if asked else None
    return Seen(p, np.nan_to_num(read_npy(model.spread)), distances(model, ids, foreign), said)


def distances(model: FoldFiles, ids: Array, foreign: Array) -> Array:
    """Return the mean distance (all rows) to the nearest training rows inside a model; 0 for those it trained on.

    `foreign` (N_s,): the scored rows that it did not train on.
    """
    from pipeline.scoring.features import in_model

    out, known = np.zeros(len(ids)), some(~foreign)
    for source, rows in predictors(model, ids, foreign):
        embeddings = read_npy(source.embeddings)
        out[rows] = in_model(embeddings[rows], embeddings[known], NEIGHBOURS)[0]
    return out


def votes(model: FoldFiles, ids: Array, foreign: Array, scored: Array, labels: Array, k: int) -> Array:
    """Return the mean label (all rows, P) of the k nearest rows that a model learnt, inside it, as a prediction.

    `labels` (N_s P) of the `scored` rows (table positions) as predictions, NaN what is not known. NaN for rows that it
    learnt, and where no neighbour's label is known.
    """
    from pipeline.scoring.features import neighbours_say

    out = np.full((len(ids), labels.shape[1]), np.nan)
    for source, rows in predictors(model, ids, foreign):
        known = some(~foreign & np.isin(scored, read_npy(source.rows)))
        embeddings = read_npy(source.embeddings)
        out[rows] = neighbours_say(embeddings[rows], embeddings[known], labels[known], k)
    return out


def some(learnt: Array) -> Array:
    """Return the positions of the rows of a mask, at most so many, evenly chosen."""
    known = np.flatnonzero(learnt)
    return np.asarray(known[np.linspace(0, len(known) - 1, min(len(known), REFERENCES)).astype(int)])


def predictors(model: FoldFiles, ids: Array, foreign: Array) -> Iterator[tuple[FoldFiles, Array]]:
    """Yield a model and the rows (a mask) it did not train on: of two students that which did not learn their half."""
    from pipeline.store.table import half_of

    mine = np.r_[foreign, np.ones(len(ids) - len(foreign), bool)]
    whole = model.embeddings.exists()
    parts = [(model, mine)] if whole else [(model.half(1 - h), mine & (half_of(ids) == h)) for h in (0, 1)]
    yield from ((source, rows) for source, rows in parts if rows.any())


def blocks_of(capacity: Capacity, table: Table, rows: Array) -> Array:
    """Return the group of rows within which a class has a capacity ("" for none)."""
    if capacity.pattern is None:
        return np.asarray(table.groups[rows])
    try:
        pattern = re.compile(capacity.pattern)
    except re.error as error:
        raise UserError(f"capacity.pattern {capacity.pattern!r} is not a regular expression: {error}") from error
    found = [pattern.search(str(i)) for i in table.ids[rows]]
    if None in found:
        lost = str(table.ids[rows][found.index(None)])
        raise UserError(f"capacity.pattern {capacity.pattern!r} does not match id {lost!r}: mend it")
    return np.array([m.group(1 if pattern.groups else 0) for m in found if m is not None])


def scored_views(job: Job, source: Source, oof: Array) -> Callable[[int | None], View]:
    """Return the scored rows as fold k may see them: by their own fold's models, in strict mode by pair models."""
    plain = source.scored(lambda below: oof)
    if not job.config.strict:
        return lambda k: plain
    from pipeline.scoring.blend import compose

    def composed(k: int, below: dict[str, Array]) -> Array:
        def weights(receipt: dict[str, Any]) -> Array:
            return np.array(receipt["weights_by_fold"][str(k)])

        return compose(job.problem.task, job.config.run, weights, below, job.problem.folds)

    strict = {k: source.scored(functools.partial(composed, k), k) for k in job.parent["folds"]}
    return lambda k: plain if k is None else strict[k]


def compare(job: Job, statistics: Array, embedded: bool) -> Shift:
    """Return how far the test rows are from the scored ones, `embedded`: inside the models of the first leaf."""
    leaf = RunFiles(next(iter(job.leaves)))
    shelves = [leaf.fold(k).embeddings for k in job.parent["folds"]]
    embedded &= all(path.exists() for path in shelves)
    return shift_of(job, statistics, [read_npy(path) for path in shelves] if embedded else None)


def shift_of(job: Job | Trained, statistics: Array, embeddings: list[Array] | None = None) -> Shift:
    """Return how far the test rows are from the scored ones, by `statistics_of` and the embeddings of each fold."""
    from pipeline.forecast.shift import adversarial
    from pipeline.scoring.features import statistic_names
    from pipeline.store.table import TEST

    table = job.table
    end = len(table.scored) + int((table.folds == TEST).sum())  # then come images that are in no table
    units = None if table.group is None else table.units[np.concatenate([table.scored, table.test])][:end]
    names = statistic_names(job.competition.images.width * job.competition.images.views)
    seen = None if embeddings is None else [part[:end] for part in embeddings]
    return adversarial(seen, table.folds[table.scored], statistics[:end], names, units, job.config.seed)


def past_of(job: Job) -> list[Submission]:
    """Return earlier submissions of the same competition, metric and fold map; their private scores stay unread."""
    from pipeline.forecast.leaderboard import Submission

    def families(name: str) -> tuple[str, ...]:
        try:
            return tuple(leaves(name))
        except UserError:
            return (name,)  # its shelf is gone

    prefix, metric = f"{job.files.competition.name}/", job.problem.metric.name
    rows = [row for row in ledger.read() if row.run.startswith(prefix) and row.run != job.files.run]
    same = [row for row in rows if (row.metric, row.fold_map) == (metric, job.parent["fold_map"])]
    return [Submission(row.run, row.cv, row.public, families(row.run)) for row in same]
