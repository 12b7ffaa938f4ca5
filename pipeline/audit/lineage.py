"""What a model saw of a fold's labels, proved from the rows that it and its ancestors trained on, never from a claim.

A proof goes from receipt to receipt: the rows of a model (`rows.npy`) against the rows, groups and images of the fold,
the folds that chose its epoch, and the same for every model that it started from, was taught, tagged or fed by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.records import Doubt, Model, Records, Refit, Shelf, read_models
from pipeline.images.near import near_between
from pipeline.store.artifacts import RUNS, FoldFiles, RunFiles
from pipeline.store.files import Array
from pipeline.store.receipts import LEVELS
from pipeline.store.roles import group_column
from pipeline.store.table import EXTRA, TEST, UNLABELLED


@dataclass(frozen=True)
class Seen:
    """A level that was proved, and the links from an artefact down to the reason; no link where nothing was seen."""

    level: str = "blind"
    chain: tuple[str, ...] = ()

    def through(self, link: str) -> Seen:
        """Return the same, seen from one artefact further up."""
        return replace(self, chain=(link, *self.chain)) if self.chain else self


def worst_seen(seen: Iterable[Seen]) -> Seen:
    """Return the worst of what was seen, the first of several."""
    return max(seen, key=lambda s: LEVELS.index(s.level), default=Seen())


@dataclass(frozen=True)
class Fold:
    """Rows whose labels a proof is about: of one competition and repeat, with one fold code (the holdout is one)."""

    competition: str
    code: int
    repeat: int = 0

    def __str__(self) -> str:
        return "the holdout" if self.code < 0 else f"fold {self.code}" + f" of repeat {self.repeat}" * (self.repeat > 0)


class Lineage(Records):
    """The shelves of a run and its ancestors, and what their models saw."""

    def __init__(self, refit: Refit) -> None:
        super().__init__()
        self._refit = refit
        self._seen: dict[tuple[str, Fold], Seen] = {}
        self._doubts: dict[str, list[Doubt]] = {}
        self._kin: dict[tuple[Fold, str], Array] = {}
        self._alike: dict[tuple[str, str], tuple[Array, Array]] = {}

    def doubts(self, run: str) -> list[Doubt]:
        """Return what of a run's fitted numbers and named rows cannot be had again from what they may rest on."""
        if run not in self._doubts:
            self._doubts[run] = list(self._refit(self.shelf(run)))
        return self._doubts[run]

    def run_saw(self, run: str, fold: Fold) -> Seen:
        """Return what a run's rows of a fold (pseudo, tag: those that name its models) saw of the fold's labels.

        Where rows are split several times, a row of a fold is the mean of a model a repeat: of those of repeats 1, 2,
        ... each must not have seen what it left out itself.
        """
        shelf, own = self.shelf(run), (fold.code, fold.repeat)
        if shelf.stage in ("pseudo", "tag"):
            return self.named_saw(shelf, own, fold)
        seen = [Seen("saw", (d.reason,)) for d in self.doubts(run) if d.of(*own)]
        if shelf.stage == "train":
            models = [m for m in shelf.models if len(m.named) == 1 and (m.repeat or m.named == [fold.code])]
            left = [replace(fold, code=m.named[0], repeat=m.repeat) for m in models]
            return worst_seen([*seen, *map(self.model_saw, models, left)])
        if shelf.stage == "lb" or shelf.receipt["config"]["method"] not in ("uniform", "hand"):
            seen.append(Seen("crossfit", ("fitted on out-of-fold rows of the other folds",)))
        below = [self.run_saw(p["run"], fold).through(f"{p['role']} {p['run']}") for p in shelf.parents]
        return worst_seen([*seen, *below])

    def models_saw(self, models: Iterable[Model], fold: Fold) -> list[Seen]:
        """Return what several models saw of a fold."""
        return [self.model_saw(model, fold) for model in models]

    def model_saw(self, model: Model, fold: Fold) -> Seen:
        """Return what a model saw of a fold's labels: itself, and through what it learnt from."""
        if (known := self._seen.get((model.name, fold))) is not None:
            return known
        if "halves" in model.facts:
            return Seen()  # the two students are models of their own
        parents = [self.parent_saw(model, parent, fold) for parent in model.facts.get("parents", [])]
        seen = worst_seen([self._trained(model, fold), self._chosen(model, fold), *parents])
        self._seen[model.name, fold] = seen.through(model.name)
        return self._seen[model.name, fold]

    def parent_saw(self, model: Model, parent: dict[str, Any], fold: Fold) -> Seen:
        """Return what a model was told of a fold by a run that plays a role in its training."""
        shelf, own = self.shelf(parent["run"]), (model.named[0], model.repeat)
        seen = self.models_saw(self.sources(model, parent), fold)
        if shelf.stage in ("pseudo", "tag"):
            seen.append(self.named_saw(shelf, own, fold))
        return worst_seen(seen).through(f"{parent['role']} {shelf.run}")

    def named_saw(self, shelf: Shelf, own: tuple[int, int], fold: Fold) -> Seen:
        """Return what the rows of a `pseudo` or `tag` run that name the models of a fold and repeat saw of a fold."""
        seen = [Seen("saw", (d.reason,)) for d in self.doubts(shelf.run) if d.of(*own)]
        if shelf.tags is not None:
            seen.append(self.named_saw(shelf.tags, own, fold).through(f"tags {shelf.tags.run}"))
        return worst_seen([*seen, *self.models_saw(self.own_models(shelf, own), fold)])

    def sources(self, model: Model, parent: dict[str, Any]) -> list[Model]:
        """Return the models that a parent in some role gave to a model: of its `files` where the receipt names them."""
        own, shelf = (model.named[0], model.repeat), self.shelf(parent["run"])
        if parent.get("files") and shelf.stage not in ("pseudo", "tag"):
            return [source for path in parent["files"] for source in self.made_by(Path(path))]
        if parent["role"] == "init":
            files = shelf.files.fold(*own)
            half = files.half(int(model.facts.get("half") or 0))
            return read_models(shelf.run, half.receipt if half.receipt.exists() else files.receipt)
        nested = self.shelf(model.run).receipt["config"].get("distill", {}).get("nested", "none")
        if parent["role"] == "teacher" and nested == "oof":
            return [m for leaf in shelf.leaves for m in leaf.models if len(m.named) == 1]
        return self.own_models(shelf, own)

    def own_models(self, shelf: Shelf, own: tuple[int, int]) -> list[Model]:
        """Return the models under a run that left a fold of a repeat out: its own, and those of pairs with it."""
        code, repeat = own
        return [m for leaf in shelf.leaves for m in leaf.models if code in m.named and m.repeat == repeat]

    def made_by(self, path: Path) -> list[Model]:
        """Return the models that made a file: of its folder, or all of a run whose folder it lies in."""
        run = "/".join(path.relative_to(RUNS).parts[:2])
        receipt = FoldFiles(path.parent).receipt
        if receipt.exists():
            return read_models(run, receipt)
        return [m for leaf in self.shelf(run).leaves for m in leaf.models if len(m.named) == 1]

    def kin(self, fold: Fold, competition: str) -> Array:
        """Return the labelled rows of a competition that tell of a fold: its own, of its groups, or of its images."""
        if (fold, competition) not in self._kin:
            table, here = self.table(fold.competition), self.table(competition)
            mine = table.split(fold.repeat).folds == fold.code
            known = np.isin(here.digests, table.digests[mine])
            if competition == fold.competition:
                known |= mine | np.isin(here.groups, np.setdiff1d(table.groups[mine], [""]))
                # An extra row that is nearly a copy of one of the fold is of its unit.
                known |= (here.folds == EXTRA) & np.isin(here.units, table.units[mine])
            else:
                ours, theirs = self._near(fold.competition, competition)
                known |= np.isin(theirs, ours[mine & (ours >= 0)])
                if (named := np.isin(here.groups, np.setdiff1d(table.groups[mine], [""]))).any():
                    # Elsewhere a name means the same where the same column gives it.
                    known |= named & (group_column(competition, fold.competition) is not None)
            self._kin[fold, competition] = known & ~np.isin(here.folds, (TEST, UNLABELLED))
        return self._kin[fold, competition]

    def _near(self, ours: str, theirs: str) -> tuple[Array, Array]:
        """Return what near copies in two competitions share, each pair of them looked at once."""
        if (ours, theirs) not in self._alike:
            self._alike[ours, theirs] = near_between(ours, self.table(ours), theirs, self.table(theirs))
        return self._alike[ours, theirs]

    def _trained(self, model: Model, fold: Fold) -> Seen:
        """Return what the rows that a model trained on tell of a fold."""
        competition = RunFiles(model.run).competition.name
        table, kin = self.table(competition), self.kin(fold, competition)
        here = competition == fold.competition
        near = table.shut_from([fold.code]) & ~kin if here else np.zeros(len(kin), bool)
        rows = model.rows[(kin | near)[model.rows]]
        if not len(rows):
            return Seen()
        own = table.split(fold.repeat).folds[rows] == fold.code if here else np.zeros(len(rows), bool)
        what = f"rows of {fold}" if own.any() else f"rows that share a group or an image with {fold}"
        if near[rows].all():
            what = f"rows that lie in the gap around {fold}"
        example = table.ids[rows[own] if own.any() else rows][0]
        return Seen("saw", (f"trained on {own.sum() or len(rows)} {what}, for example id {str(example)!r}",))

    def _chosen(self, model: Model, fold: Fold) -> Seen:
        """Return what the choice of a model's epoch tells of a fold."""
        chosen = model.facts.get("chosen_on", [])
        if not chosen and self.shelf(model.run).receipt["config"].get("select") == "best":
            return Seen("saw", ("its epoch was chosen, and the receipt does not say on which folds",))
        competition = RunFiles(model.run).competition.name
        rows = np.isin(self.table(competition).split(model.repeat).folds, chosen)
        if (rows & self.kin(fold, competition)).any():
            return Seen("saw", (f"its epoch was chosen on scores of {fold}",))
        if chosen and competition == fold.competition:
            return Seen("crossfit", (f"its epoch was chosen on scores of folds {chosen}",))
        return Seen()
