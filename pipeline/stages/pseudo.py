"""Write pseudo-labels for the students of a run: each row names the one model it may train and is blind to its fold."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.scoring.metrics import metric_of
from pipeline.scoring.pseudo import Rule, choose, collapsing, entries, say, sureness
from pipeline.scoring.teacher import Teacher, allowed, expected, look, mean_of, rounds, summary, teacher_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import Array, atomic, lock
from pipeline.store.keys import builds_on, built_key, read_table_facts
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.store.runs import Pseudo, load_run
from pipeline.store.shelves import as_parent, leaves, read_shelf, read_stage, refuse_seen, refuse_strangers
from pipeline.tasks import TASKS, refuse_several

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    import pandas as pd

    from pipeline.store.table import Table

log = logging.getLogger("pipeline.pseudo")


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
        refuse_settings(config, competition, files.config, len(members))
        if config.tags:
            tagged = read_stage(config.tags, "tags", "tag")
            refuse_seen(tagged, "tags")
            refuse_strangers({config.tags: tagged}, facts)
        key = built_key(config, competition, parents)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.store.table import read_table

            history, before = rounds(receipts)
            table = read_table(files.competition, facts)
            label(Asked(files, config, competition, table, receipts, history), before, key)


def refuse_settings(config: Pseudo, competition: Competition, where: Path, members: int) -> None:
    """Refuse what a task has no answer to."""
    dense = TASKS[competition.task].dense
    if competition.task == "regression" and members < 2 and (config.quota != 1.0 or config.threshold):
        raise UserError(
            f"{where}: one regression does not tell how sure it is: name a blend as run, or keep quota = 1.0"
        )
    if dense and config.select != "confidence":
        raise UserError(f'{where}: select = "{config.select}": masks are chosen by the confidence of their pixels')
    if dense and config.tags:
        raise UserError(f"{where}: tags: those of masks are for a person to read, not blind to a fold: take it out")
    if not dense and "empties" in config.model_fields_set:
        raise UserError(f'{where}: empties is about masks: it needs task = "segmentation"')


@dataclass(frozen=True)
class Asked:
    """What is asked for: a selection, by the rule of this round, of the test rows of a table, from teachers."""

    files: RunFiles
    config: Pseudo
    competition: Competition
    table: Table
    receipts: dict[str, dict[str, Any]]
    history: list[dict[str, float]]

    @property
    def first(self) -> dict[str, Any]:
        """Return the receipt of the first teacher, which speaks for the others where all are alike."""
        return next(iter(self.receipts.values()))

    @property
    def quota(self) -> float:
        """Return the quota of this round."""
        quotas = self.config.quota if isinstance(self.config.quota, list) else [self.config.quota]
        return quotas[min(len(self.history), len(quotas) - 1)]

    @property
    def models(self) -> list[tuple[int, int]]:
        """Return the repeat and the fold of every model."""
        return [(r, k) for r in range(len(self.table.splits)) for k in self.first["folds"]]

    def part(self, model: tuple[int, int], rows: Array, sure: Array) -> pd.DataFrame:
        """Return the rows of `pseudo.csv` (less their targets) that name a model: test rows, and how sure they are."""
        import pandas as pd

        from pipeline.store.table import half_of

        ids, (r, k) = self.table.ids[self.table.test][rows], model
        half = half_of(ids) if self.config.halves else np.full(len(ids), -1)
        weight = sure if self.config.weight == "confidence" else 1.0
        part = pd.DataFrame({"id": ids, "repeat": r, "fold": k, "half": half, "weight": weight})
        refuse_empty(self.files, part, k, self.config.halves)
        return part


@dataclass(frozen=True)
class Chosen:
    """What is chosen: the rows that name each model, its state, what is expected by fold and in all; why to stop.

    `write` leaves what is too large for a table and returns where.
    """

    parts: list[pd.DataFrame]
    now: dict[str, float]
    precision: dict[int, dict[str, float]]
    metric: str
    why: str | None
    write: Callable[[], list[Path]] = list
    facts: dict[str, Any] = field(default_factory=dict)


def label(asked: Asked, before: Teacher | None, key: str) -> None:
    """Select and label test rows for every model, estimate how right that is, write the shelf."""
    import pandas as pd

    from pipeline.store.tracking import track

    files, config, history, first = asked.files, asked.config, asked.history, asked.first
    started, ids = time.monotonic(), asked.table.ids[asked.table.test]
    made = choose_maps(asked) if TASKS[asked.competition.task].dense else choose_rows(asked, before)
    now, why = made.now, made.why
    if why and config.stop:
        raise UserError(
            f"{files.run}: round {len(history) + 1} stops here: {why}; submit the previous teacher, or set stop = false"
        )
    outputs, frame = made.write(), pd.concat(made.parts)
    with atomic(files.pseudo) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    kept = len(frame) / len(made.parts)
    report = summary(made.metric, made.precision, kept / len(ids))
    with track(files, "pseudo", config.model_dump(), key) as tracker:
        tracker.summary({**report, **now, "round": len(history) + 1})
    write_receipt(
        files.receipt,
        stage="pseudo",
        key=key,
        outputs=[files.pseudo, *outputs],
        run=files.run,
        config=config.model_dump(),
        **{name: first[name] for name in ("fold_map", "rows", "test", "classes", "folds")},
        parents=parents_of(asked.receipts, config.tags),
        tags=config.tags,
        level={str(k): "blind" for k in first["folds"]},
        **made.facts,
        rounds=[*history, now],
        precision=made.precision,
        metrics=report,
        seconds=round(time.monotonic() - started, 1),
    )
    log.info("%s: round %d, %.0f of %d test rows a fold", files.run, len(history) + 1, kept, len(ids))
    told = [report[name] for name in ("metric", "score", "se", "all")]
    log.info("%s: expected %s %.4f +- %.4f, by the same rule on other folds' rows (all rows: %.4f)", files.run, *told)
    if why:
        log.warning("warning: %s: %s", files.run, why)


def choose_rows(asked: Asked, before: Teacher | None) -> Chosen:
    """Choose rows by how sure predictions (N P) are, class by class."""
    import pandas as pd

    config, table = asked.config, asked.table
    teacher = teacher_of(asked.receipts, asked.competition, len(table.classes))
    task, cuts = teacher.task, teacher.cuts
    rule = Rule(config.select, asked.quota, config.threshold, config.stratify)
    parts, states, precision = [], [], {}
    for r, k in asked.models:
        members = teacher.test(k, r)
        mean, sure = members.mean(0), sureness(task, members, cuts, rule.select)
        kept = choose(rule, sure, entries(task, mean, cuts)) & allowed(config.tags, table, k, r)[:, None]
        said, rows = say(task, mean, kept, cuts, config.targets, config.temperature), np.flatnonzero(kept.any(1))
        part = asked.part((r, k), rows, np.nanmean(np.where(kept, sure, np.nan)[rows], 1) if len(rows) else sure[:0, 0])
        parts.append(part.join(pd.DataFrame(said[rows], columns=[f"t{c}" for c in range(said.shape[1])])))
        states.append(look(teacher, mean, before.test(k, r).mean(0) if before else None))
        if r == 0:  # the rows that it is measured on are the same in each
            precision[k] = expected(teacher, rule, table, k)
    now = mean_of(states)
    why = collapsing(now, asked.history[-1], len(table.test)) if asked.history else None
    return Chosen(parts, now, precision, "rmse" if task.name == "regression" else "precision", why)


def choose_maps(asked: Asked) -> Chosen:
    """Choose images by how sure the pixels of their maps are, mask size by mask size."""
    from pipeline.scoring import mask_pseudo
    from pipeline.scoring.mask_ensemble import refuse_unlike
    from pipeline.scoring.mask_shelf import Scene
    from pipeline.scoring.mask_teacher import MaskTeacher, write_labels

    files, config, table, competition = asked.files, asked.config, asked.table, asked.competition
    if why := refuse_unlike([receipt["maps"] for receipt in asked.receipts.values()]):
        raise UserError(f"{files.config}: {why}")
    task, metric = TASKS[competition.task], metric_of(competition, files.competition)
    scene = Scene.of(files, competition, table, task, metric, asked.first["maps"])
    teacher = MaskTeacher(scene, [RunFiles(leaf) for leaf in asked.receipts])
    rule = mask_pseudo.MaskRule(config.threshold, asked.quota, config.empties, config.stratify)
    parts, states, rows = [], [], {}
    for r, k in asked.models:
        kept, sure, coverage = teacher.chosen(rule, k, r)
        rows[r, k] = np.flatnonzero(kept)
        parts.append(asked.part((r, k), rows[r, k], sure[kept]))
        states.append(mask_pseudo.state(coverage))
    now = mean_of(states)

    def write() -> list[Path]:
        write_labels(files, teacher, rows, config.targets, config.temperature)
        return [files.pseudo_maps(r, k) for r, k in asked.models]

    return Chosen(
        parts,
        now,
        {k: teacher.expected(rule, k) for k in asked.first["folds"]},
        metric.name,
        mask_pseudo.collapsing(now, asked.history[-1]) if asked.history else None,
        write,
        {"maps": {"extra": 0, "scale": scene.scale}},
    )


def parents_of(receipts: dict[str, dict[str, Any]], tags: str | None) -> list[dict[str, Any]]:
    """Return what the receipt tells of the teachers and of the tags."""
    known = [("teacher", receipt) for receipt in receipts.values()]
    known += [("tags", read_shelf(tags, "tags"))] if tags else []
    return [as_parent(role, receipt) for role, receipt in known]


def refuse_empty(files: RunFiles, part: Any, fold: int, halves: bool) -> None:
    """Refuse a selection that leaves a student with nothing."""
    for half in (0, 1) if halves else (-1,):
        if not (part["half"] == half).any():
            raise UserError(
                f"{files.config}: no test row is left for the student of fold {fold}"
                f"{f', half {half}' if halves else ''}: raise quota, lower threshold, or drop tags"
            )


if __name__ == "__main__":
    main(run, __doc__, "run")
