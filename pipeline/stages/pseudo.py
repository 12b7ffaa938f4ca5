"""Write pseudo-labels for the students of a run: each row names the one model it may train and is blind to its fold."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.pseudo import Rule, agreement, choose, class_entropy, collapsing, entries, right, say, sureness
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, lock, read_npy
from pipeline.store.keys import builds_on, built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.store.runs import Pseudo, load_run
from pipeline.store.shelves import as_parent, leaves, of_repeat, read_shelf, read_stage, refuse_seen, refuse_strangers
from pipeline.tasks import TASKS, Task, refuse_several

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table

log = logging.getLogger("pipeline.pseudo")


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


def run(args: argparse.Namespace) -> None:
    """Leave `pseudo.csv` and its receipt on the shelf of a run."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Pseudo):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make pseudo')
    refuse_several(competition, files.config, "make pseudo")
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        parents = {name: read_shelf(name, "run") for name in builds_on(config)}
        members = leaves(config.run)
        receipts = {leaf: read_shelf(leaf, "teacher") for leaf in members}
        refuse_strangers(receipts, facts)
        for receipt in receipts.values():
            refuse_seen(receipt, "teacher")
        if competition.task == "regression" and len(members) < 2 and (config.quota != 1.0 or config.threshold):
            raise UserError(
                f"{files.config}: one regression does not tell how sure it is: name a blend as run, or keep quota = 1.0"
            )
        if config.tags:
            tagged = read_stage(config.tags, "tags", "tag")
            refuse_seen(tagged, "tags")
            refuse_strangers({config.tags: tagged}, facts)
        key = built_key(config, competition, parents)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.store.table import read_table

            task, table = TASKS[competition.task], read_table(files.competition, facts)
            teacher = Teacher([RunFiles(leaf) for leaf in members], task, task.default_cuts(len(table.classes)))
            label(files, config, teacher, table, receipts, key)


def label(
    files: RunFiles,
    config: Pseudo,
    teacher: Teacher,
    table: Table,
    receipts: dict[str, dict[str, Any]],
    key: str,
) -> None:
    """Select and label test rows for every model, estimate how right that is, write the shelf."""
    import pandas as pd

    from pipeline.store.table import half_of
    from pipeline.store.tracking import track

    started, first = time.monotonic(), next(iter(receipts.values()))
    history, before = rounds(receipts)
    quotas = config.quota if isinstance(config.quota, list) else [config.quota]
    rule = Rule(config.select, quotas[min(len(history), len(quotas) - 1)], config.threshold, config.stratify)
    ids = table.ids[table.test]
    half = half_of(ids) if config.halves else np.full(len(ids), -1)
    parts, state, precision = [], [], {}
    models = [(r, k) for r in range(len(table.splits)) for k in first["folds"]]
    for r, k in models:
        members = teacher.test(k, r)
        mean, sure = members.mean(0), sureness(teacher.task, members, teacher.cuts, rule.select)
        kept = choose(rule, sure, entries(teacher.task, mean, teacher.cuts)) & allowed(config, table, k, r)[:, None]
        said = say(teacher.task, mean, kept, teacher.cuts, config.targets, config.temperature)
        rows = np.flatnonzero(kept.any(1))
        weight = np.nanmean(np.where(kept, sure, np.nan)[rows], 1) if config.weight == "confidence" else 1.0
        part = pd.DataFrame({"id": ids[rows], "repeat": r, "fold": k, "half": half[rows], "weight": weight})
        parts.append(part.join(pd.DataFrame(said[rows], columns=[f"t{c}" for c in range(said.shape[1])])))
        refuse_empty(files, part, k, config.halves)
        state.append(look(teacher, mean, before.test(k, r).mean(0) if before else None))
        if r == 0:  # the rows that it is measured on are the same in each
            precision[k] = expected(teacher, rule, table, k)
    now = {name: float(np.mean([s[name] for s in state])) for name in state[0]}
    why = collapsing(now, history[-1], len(ids)) if history else None
    if why and config.stop:
        raise UserError(
            f"{files.run}: round {len(history) + 1} stops here: {why}; submit the previous teacher, or set stop = false"
        )
    frame = pd.concat(parts)
    with atomic(files.pseudo) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    report = summary(teacher.task, precision, len(frame) / len(models) / len(ids))
    with track(files, "pseudo", config.model_dump(), key) as tracker:
        tracker.summary({**report, **now, "round": len(history) + 1})
    write_receipt(
        files.receipt,
        stage="pseudo",
        key=key,
        outputs=[files.pseudo],
        run=files.run,
        config=config.model_dump(),
        **{name: first[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=parents_of(receipts, config.tags),
        tags=config.tags,
        level={str(k): "blind" for k in first["folds"]},
        rounds=[*history, now],
        precision=precision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    kept_share = f"{len(frame) / len(models):.0f} of {len(ids)} test rows a fold"
    log.info("%s: round %d, %s", files.run, len(history) + 1, kept_share)
    log.info(
        "%s: expected %s %.4f +- %.4f, by the same rule on other folds' rows (all rows: %.4f)",
        files.run,
        report["metric"],
        report["score"],
        report["se"],
        report["all"],
    )
    if why:
        log.warning("warning: %s: %s", files.run, why)


def parents_of(receipts: dict[str, dict[str, Any]], tags: str | None) -> list[dict[str, Any]]:
    """Return what the receipt tells of the teachers and of the tags."""
    known = [("teacher", receipt) for receipt in receipts.values()]
    known += [("tags", read_shelf(tags, "tags"))] if tags else []
    return [as_parent(role, receipt) for role, receipt in known]


def allowed(config: Pseudo, table: Table, fold: int, repeat: int) -> Array:
    """Return the test rows (N,) that may be used: all, or those that are easy to models blind to the fold."""
    ids = table.ids[table.test]
    if config.tags is None:
        return np.ones(len(ids), bool)
    import pandas as pd

    path, text = RunFiles(config.tags).difficulty_train, {"id": str, "tag": str}
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, usecols=["repeat", "fold", *text])
    easy = frame[(frame["repeat"] == repeat) & (frame["fold"] == fold) & (frame["tag"] == "easy")]
    return np.isin(ids, easy["id"].to_numpy(str))


def refuse_empty(files: RunFiles, part: Any, fold: int, halves: bool) -> None:
    """Refuse a selection that leaves a student with nothing."""
    for half in (0, 1) if halves else (-1,):
        if not (part["half"] == half).any():
            raise UserError(
                f"{files.config}: no test row is left for the student of fold {fold}"
                f"{f', half {half}' if halves else ''}: raise quota, lower threshold, or drop tags"
            )


def look(teacher: Teacher, mean: Array, before: Array | None) -> dict[str, float]:
    """Return the state of a round: the entropy of what is decided, and the agreement with the previous teacher."""
    state = {"entropy": class_entropy(teacher.task, mean, teacher.cuts)}
    if before is not None:
        state["agreement"] = agreement(teacher.task, mean, before, teacher.cuts)
    return state


def rounds(receipts: dict[str, dict[str, Any]]) -> tuple[list[dict[str, float]], Teacher | None]:
    """Return the states of the rounds that led to a teacher, and the teacher of the last one."""
    for receipt in receipts.values():
        last = receipt["config"].get("pseudo")
        if last:
            known = read_shelf(last, "pseudo")
            competition = load_competition(last.split("/")[0])
            task = TASKS[competition.task]
            names = [parent["run"] for parent in known["parents"] if parent["role"] == "teacher"]
            members = [RunFiles(read_shelf(name, "teacher")["run"]) for name in names]
            return known["rounds"], Teacher(members, task, task.default_cuts(len(known["classes"])))
    return [], None


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


def summary(task: Task, precision: dict[int, dict[str, float]], kept: float) -> dict[str, Any]:
    """Return what a person wants to know of a selection, mean over the folds (whose rows overlap: so do the errors)."""
    mean = {name: float(np.mean([p[name] for p in precision.values()])) for name in ("score", "se", "all", "n")}
    return {"metric": "rmse" if task.name == "regression" else "precision", "kept": kept, **mean}


if __name__ == "__main__":
    main(run, __doc__, "run")
