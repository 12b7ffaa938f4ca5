"""Try changes to a run, each alone, on the same folds, seeds and steps: which help, which hurt, how sure that is."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to, main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import lock, write_text
from pipeline.store.keys import read_table_facts, trying_key
from pipeline.store.receipts import fresh, touch, write_receipt
from pipeline.store.runs import load_run
from pipeline.store.trials import Ablate

if TYPE_CHECKING:  # imports torch, which an ablation with nothing to do must not pay for
    from pipeline.trials.ablation import Ablation, Found

log = logging.getLogger("pipeline.ablate")


def run(args: argparse.Namespace) -> None:
    """Leave the table of an ablation, its forest plot and a receipt."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Ablate):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make ablate')
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        key = trying_key(config, competition, facts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        with log_to(files.log):
            from pipeline.trials.ablation import Ablation
            from pipeline.trials.bench import Bench
            from pipeline.trials.fanout import run_units

            started, plan = time.monotonic(), Ablation.of(Bench.of(args.run), config)
            run_units(plan.bench, plan.first())
            found = plan.judge_first()
            run_units(plan.bench, plan.rest(found))
            found = plan.judge(found)
            run_units(plan.bench, plan.again(found))
            write(plan, plan.judge_again(found), key, started)


def write(plan: Ablation, found: Found, key: str, started: float) -> None:
    """Write the table, the plot and the receipt, and say what was found."""
    from pipeline.store.tracking import track
    from pipeline.trials.forest import forest
    from pipeline.trials.table import lines, notes, to_csv

    files, metric, rows = plan.bench.files, plan.bench.metric.name, plan.rows(found)
    smallest, winner, config = plan.smallest(found), found.winner, plan.config.model_dump()
    words = notes(rows, winner, plan.steps, smallest)
    write_text(files.trials, to_csv(rows))
    title = f"{files.run}: {metric}, {plan.config.seeds} seeds x {len(plan.folds)} folds, {plan.steps} steps"
    write_text(files.forest, forest(rows, winner, title, smallest))
    with track(files, "ablate", config, key) as tracker:
        tracker.summary({f"gain_{row.name}": row.effect.gain for row in rows if row.effect is not None})
        tracker.artifact(f"{files.run}-ablation", "ablation", files.trials, files.forest)
    write_receipt(
        files.receipt,
        stage="ablate",
        key=key,
        outputs=[files.trials, files.forest],
        run=files.run,
        config=config,
        fold_map=plan.bench.fold_map(None),
        folds=list(plan.folds),
        parents=[],
        level={},
        steps=plan.steps,
        variants=[row.cells() for row in rows],
        winner=winner and asdict(winner) | {"verdict": winner.effect.confirmed},
        smallest=smallest,
        notes=words,
        metrics={"metric": metric, "score": plan.published(found.base), "se": found.base.se},
        seconds=round(time.monotonic() - started, 1),
    )
    for line in (*lines(rows, winner), *words):
        log.info("%s", line)
    log.info("%s: %s, %s", files.run, files.trials, files.forest)


if __name__ == "__main__":
    main(run, __doc__, "run")
