"""What the teachers of a run say of test rows, and how right the labels are that a rule would choose of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.pseudo import Rule, agreement, choose, class_entropy, entries, right, sureness
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition, load_competition
from pipeline.store.files import Array, read_npy
from pipeline.store.shelves import of_repeat, read_shelf
from pipeline.tasks import TASKS, Task

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table


@dataclass(frozen=True)
class Teacher:
    """The trained runs that speak for a teacher; where a blend is named, its members with equal weights."""

    members: list[RunFiles]
    task: Task
    cuts: Array

    def test(self, fold: int, repeat: int = 0) -> Array:
        """Return the test predictions of the members' models of a fold (M N P): blind to that fold."""
        return np.stack([read_npy(member.fold(fold, repeat).test) for member in self.members])

    def oof(self, table: Table) -> Array:
        """Return the members' out-of-fold predictions (M N P): of one repeat, as it is one model that labels."""
        if len(table.splits) > 1:
            return np.stack([of_repeat(member.run, table, 0) for member in self.members])
        return np.stack([read_npy(member.oof) for member in self.members])


def look(teacher: Teacher, mean: Array, before: Array | None) -> dict[str, float]:
    """Return the state of a round: the entropy of what is decided, and the agreement with the previous teacher."""
    state = {"entropy": class_entropy(teacher.task, mean, teacher.cuts)}
    if before is not None:
        state["agreement"] = agreement(teacher.task, mean, before, teacher.cuts)
    return state


def expected(teacher: Teacher, rule: Rule, table: Table, fold: int) -> dict[str, float]:
    """Return how right the rule (less its `tags`) is on the out-of-fold rows of the *other* folds, with its error.

    `score` is of the kept entries, `all` of every entry: a share of right ones, or for values the rmse.
    """
    scored, task = table.scored, teacher.task
    other = np.flatnonzero(table.folds[scored] != fold)
    members, y = teacher.oof(table)[:, other], task.harden(task.targets(table.y[scored]))[other]
    mean = members.mean(0)
    kept = choose(rule, sureness(task, members, teacher.cuts, rule.select), entries(task, mean, teacher.cuts))
    values = task.name == "regression"
    found = {}
    for name, mask in (("score", kept), ("all", np.ones_like(kept))):
        hits, count = right(task, y, mean, mask, teacher.cuts)

        def share(weight: Array, hits: Array = hits, count: Array = count) -> float:
            total = float(weight @ count)
            mean = float(weight @ hits) / total if total else float("nan")
            return mean**0.5 if values else mean

        found[name] = share(np.ones(len(other)))
        if name == "score":
            found["se"] = standard_error(share, len(other), None if table.group is None else table.group[other])
            found["n"] = float(count.sum())
    return found


def summary(metric: str, precision: dict[int, dict[str, float]], kept: float) -> dict[str, Any]:
    """Return what a person wants to know of a selection, mean over the folds (whose rows overlap: so do the errors)."""
    mean = {name: float(np.mean([p[name] for p in precision.values()])) for name in ("score", "se", "all", "n")}
    return {"metric": metric, "kept": kept, **mean}


def mean_of(states: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of what is said of several models."""
    return {name: float(np.mean([s[name] for s in states])) for name in states[0]}


def teacher_of(receipts: dict[str, dict[str, Any]], competition: Competition, classes: int) -> Teacher:
    """Return the trained runs of some receipts as one teacher."""
    task = TASKS[competition.task]
    return Teacher([RunFiles(receipt["run"]) for receipt in receipts.values()], task, task.default_cuts(classes))


def rounds(receipts: dict[str, dict[str, Any]]) -> tuple[list[dict[str, float]], Teacher | None]:
    """Return the states of the rounds that led to a teacher, and the teacher of the last one."""
    for receipt in receipts.values():
        last = receipt["config"].get("pseudo")
        if last:
            known = read_shelf(last, "pseudo")
            names = [parent["run"] for parent in known["parents"] if parent["role"] == "teacher"]
            members = {name: read_shelf(name, "teacher") for name in names}
            before = teacher_of(members, load_competition(last.split("/")[0]), len(known["classes"]))
            return known["rounds"], before
    return [], None


def allowed(tags: str | None, table: Table, fold: int, repeat: int) -> Array:
    """Return the test rows (N,) that may be used: all, or those that are easy to models blind to the fold."""
    ids = table.ids[table.test]
    if tags is None:
        return np.ones(len(ids), bool)
    import pandas as pd

    path, text = RunFiles(tags).difficulty_train, {"id": str, "tag": str}
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, usecols=["repeat", "fold", *text])
    easy = frame[(frame["repeat"] == repeat) & (frame["fold"] == fold) & (frame["tag"] == "easy")]
    return np.isin(ids, easy["id"].to_numpy(str))
