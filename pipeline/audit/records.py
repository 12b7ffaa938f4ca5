"""The shelves of a run and its ancestors as an audit reads them: receipts, models, tables, each once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.store.artifacts import RUNS, CompetitionFiles, FoldFiles, RunFiles
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, digest_file, read_json, read_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.shelves import as_out_of_fold
from pipeline.store.table import Table, read_table


@dataclass(frozen=True)
class Doubt:
    """A number that is not what its receipt says it is; `rows`: it made the rows of the fold, not only their score."""

    fold: int | None
    reason: str
    rows: bool = True
    repeat: int = 0

    def of(self, fold: int, repeat: int) -> bool:
        """Say whether it made rows of a fold."""
        return self.rows and (self.fold is None or (self.fold, self.repeat) == (fold, repeat))


@dataclass(frozen=True)
class Model:
    """One model of a run; `rows` are the table positions it trained on (none where two halves are put together)."""

    run: str
    files: FoldFiles
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Return its place on the shelves."""
        return str(self.files.folder.relative_to(RUNS))

    @property
    def named(self) -> list[int]:
        """Return the folds that its folder is named after."""
        place = str(self.files.folder.relative_to(RunFiles(self.run).folder))
        found = re.search(r"(?:fold|pair)(\d+)(?:-(\d+))?", place)
        return [] if found is None else [int(k) for k in found.groups() if k is not None]

    @property
    def repeat(self) -> int:
        """Return the repeat that its folder is of."""
        place = self.files.folder.relative_to(RunFiles(self.run).folder).parts[0]
        return int(place.removeprefix("repeat")) if place.startswith("repeat") else 0

    @cached_property
    def rows(self) -> Array:
        """Return the table positions that it trained on."""
        return np.asarray(read_npy(self.files.rows))

    @property
    def epochs(self) -> Array:
        """Return what it saw of its training rows over the epochs, N x (P + 3)."""
        return np.asarray(read_npy(self.files.epochs))

    @property
    def train(self) -> Array:
        """Return its predictions of all scored rows (N P)."""
        return np.asarray(read_npy(self.files.train))

    @property
    def test(self) -> Array:
        """Return its predictions of the test rows (T P)."""
        return np.asarray(read_npy(self.files.test))

    @cached_property
    def header(self) -> dict[str, Any]:
        """Return what our own header of its weights says; {} where two halves are put together."""
        if not self.files.model.exists():
            return {}
        with open(self.files.model, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            ours = json.loads(handle.read(length)).get("__metadata__", {}).get("podium", "{}")
        found: dict[str, Any] = json.loads(ours)
        return found


@dataclass
class Shelf:
    """What lies on the shelf of a run, read when it is asked for."""

    run: str
    receipt: dict[str, Any]
    table: Table
    competition: Competition
    parents: list[dict[str, Any]]
    models: list[Model]
    records: Records

    @property
    def files(self) -> RunFiles:
        """Return the files."""
        return RunFiles(self.run)

    @property
    def stage(self) -> str:
        """Return the stage that made it."""
        return str(self.receipt["stage"])

    @cached_property
    def members(self) -> list[Shelf]:
        """Return the shelves that a run predicts, labels or tags from; none for a trained run."""
        runs = [p["run"] for p in self.parents if self.stage != "train" and p["role"] != "tags"]
        return [self.records.shelf(run) for run in runs]

    @property
    def leaves(self) -> list[Shelf]:
        """Return the shelves of the trained runs under a run, each once."""
        below = {leaf.run: leaf for member in self.members for leaf in member.leaves}
        return [self] if self.stage == "train" else list(below.values())

    @cached_property
    def tags(self) -> Shelf | None:
        """Return the shelf of the tags that pseudo-labels were chosen by."""
        runs = [p["run"] for p in self.parents if self.stage == "pseudo" and p["role"] == "tags"]
        return self.records.shelf(runs[0]) if runs else None

    @property
    def oof(self) -> Array:
        """Return the out-of-fold predictions (N P)."""
        return np.asarray(read_npy(self.files.oof))

    def test(self, fold: int, repeat: int = 0) -> Array:
        """Return the test predictions of one fold's model (N P)."""
        return np.asarray(read_npy(self.files.fold(fold, repeat).test))

    def view(self, fold: int) -> Array:
        """Return the test predictions as out-of-fold rows of a fold are made: mean over repeats (N P)."""
        return as_out_of_fold(self.run, self.receipt.get("repeats", 1), fold)

    @cached_property
    def named(self) -> pd.DataFrame:
        """Return the rows of a `pseudo` or `tag` run, each with the model that it names."""
        path = self.files.pseudo if self.stage == "pseudo" else self.files.difficulty_train
        return pd.read_csv(path, dtype={"id": str, "tag": str}, keep_default_na=False, na_values=[""])


Refit = Callable[[Shelf], Iterable[Doubt]]


class Records:
    """Shelves, tables and file hashes, each read once."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}
        self._tables: dict[str, Table] = {}
        self._hashes: dict[str, str | None] = {}

    def shelf(self, run: str) -> Shelf:
        """Return the shelf of a run."""
        if run not in self._shelves:
            files = RunFiles(run)
            if not files.receipt.exists():
                raise UserError(f"{run!r} has no {files.receipt}: run make for it first")
            receipt = read_json(files.receipt)
            models = [model for path in receipt["outputs"] for model in read_models(run, Path(path))]
            given = [*receipt["parents"], *(p for model in models for p in model.facts.get("parents", []))]
            default = "member" if receipt["stage"] == "ensemble" else "run"
            named = {(p.get("role", default), p["run"]): {"role": default, **p} for p in reversed(given)}
            parents = [named[key] for key in reversed(named)]
            competition = load_competition(files.competition.name)
            table = self.table(files.competition.name)
            self._shelves[run] = Shelf(run, receipt, table, competition, parents, models, self)
        return self._shelves[run]

    def table(self, competition: str) -> Table:
        """Return today's table of record of a competition."""
        if competition not in self._tables:
            files = CompetitionFiles(competition)
            self._tables[competition] = read_table(files, read_table_facts(files))
        return self._tables[competition]

    def hash(self, path: str) -> str | None:
        """Return the hash of a file, None where there is none."""
        if path not in self._hashes:
            self._hashes[path] = digest_file(Path(path)) if Path(path).exists() else None
        return self._hashes[path]


def read_models(run: str, receipt: Path) -> list[Model]:
    """Return the model of a receipt, and those of its two halves or for test; none for another file."""
    files = FoldFiles(receipt.parent)
    if receipt != files.receipt or not receipt.exists():
        return []
    model = Model(run, files, read_json(receipt))
    more = [files.half(h).receipt for h in model.facts.get("halves", [])]
    more += [files.for_test.receipt] * bool(model.facts.get("for_test"))
    return [model, *(part for path in more for part in read_models(run, path))]
