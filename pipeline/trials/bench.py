"""What trials are, and what those of a run share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.launch import slots
from pipeline.nets.machine import choose_machine
from pipeline.scoring.metrics import Metric, metric_of
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import read_json, write_json
from pipeline.store.keys import read_table_facts
from pipeline.store.patches import shown
from pipeline.store.section import validate
from pipeline.store.table import Table, read_table
from pipeline.store.train import Train
from pipeline.tasks import task_of
from pipeline.trials.fresh import only, resplit

# The name of the trials of the run itself.
BASE = "base"


@dataclass(frozen=True)
class Trial:
    """A run to try: under a `name`, with its seed and epochs set, on some folds - of the split by seed `split`."""

    name: str
    config: Train
    folds: tuple[int, ...]
    split: int | None = None

    def files(self, run: RunFiles) -> RunFiles:
        """Return its shelf under the run that tries it."""
        fresh_folds = "" if self.split is None else f"folds{self.split}-"
        return run.trial(self.name, f"{fresh_folds}s{self.config.seed}")


@dataclass(frozen=True)
class Unit:
    """Trials that share their models, and what their fit must reach at each rung (see `pruning`; none: nothing)."""

    trials: tuple[Trial, ...]
    bars: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What the trials of a run share: the table and the hash of its folds by split, the metric, the threads."""

    files: RunFiles
    competition: Competition
    facts: dict[str, Any]
    metric: Metric
    threads: int
    splits: dict[int | None, tuple[Table, str]]

    @classmethod
    def of(cls, run: str) -> Bench:
        """Return the bench of a run; how many threads a fit has is decided once and holds when it is resumed."""
        files = RunFiles(run)
        competition, facts = load_competition(files.competition.name), read_table_facts(files.competition)
        if not files.state.exists():
            write_json(files.state, {"threads": choose_machine("fp32", slots()).threads})
        table = read_table(files.competition, facts).split(0)
        metric, threads = metric_of(competition, files.competition), read_json(files.state)["threads"]
        metric.refuse_grades(task_of(competition, table.classes), table.classes)
        return cls(files, competition, facts, metric, threads, {None: (table, table.fold_map())})

    @property
    def folds(self) -> tuple[int, ...]:
        """Return the folds that are scored."""
        table = self.table_of(None)
        return tuple(np.unique(table.folds[table.scored]).tolist())

    def table_of(self, split: int | None) -> Table:
        """Return the table with the committed folds, or with those drawn by a seed."""
        return self._split(split)[0]

    def fold_map(self, split: int | None) -> str:
        """Return the hash of the folds."""
        return self._split(split)[1]

    def _split(self, split: int | None) -> tuple[Table, str]:
        if split not in self.splits:
            drawn = resplit(self.competition, self.files.competition, self.table_of(None), split or 0)
            self.splits[split] = drawn, drawn.fold_map()
        return self.splits[split]

    def problem(self, trial: Trial) -> Problem:
        """Return the problem of the rows that a trial scores."""
        table = only(self.table_of(trial.split), trial.folds)
        return Problem.of(table, task_of(self.competition, table.classes), self.metric)

    def steps(self, config: Train) -> int:
        """Return how many optimiser steps an epoch of a run takes, by the mean number of rows of its models."""
        rows = np.mean([self.table_of(None).foreign((k,)).sum() for k in self.folds])
        assert isinstance(config.batch_size, int)
        return math.ceil(shown(config) * float(rows) / config.batch_size)

    def scheduled(self, config: Train, steps: int, seed: int, what: str) -> Train:
        """Return a run with a seed, and the whole epochs that are nearest to a number of steps."""
        each = self.steps(config)
        if steps < each:
            raise UserError(
                f"{self.files.config}: steps = {steps} is less than one epoch of {what}, which has {each} at "
                f"batch_size = {config.batch_size}: raise steps, or batch_size"
            )
        epochs = round(steps / each)
        given = config.model_dump(exclude_unset=True) | {"epochs": epochs, "seed": seed % 2**32}
        given.pop("pairs", None)  # of those models nothing is asked here
        return validate(Train, given, Path(f"{self.files.config}: {what}, {epochs} epochs"))
