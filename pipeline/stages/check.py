"""Look at a run before it trains: is anything broken, and what will it cost?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.launch import slots
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import main
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.keys import read_table_facts
from pipeline.store.runs import load_run
from pipeline.store.shelves import require_shelf
from pipeline.store.train import Train

if TYPE_CHECKING:  # imports torch
    from pipeline.training.job import Job

# What rests on other runs is not looked at: a preflight comes before there are any.
ROLES = {"pseudo": None, "teacher": None, "tags": None, "chosen_by": None, "indicators": False}


def run(args: argparse.Namespace) -> None:
    """Print the verdict table and write the page; exit with 1 where something is broken."""
    job = pose(args.run)
    from pipeline.preflight.checks import preflight

    if not preflight(job):
        sys.exit(1)


def pose(run: str) -> Job:
    """Return what the models of a run share, as a training would; nothing is written to its shelf."""
    files = RunFiles(run)
    config, competition = load_run(run), load_competition(files.competition.name)
    if not isinstance(config, Train) or config.fit != "network":
        what = f"stage = {config.stage!r}" if not isinstance(config, Train) else f"fit = {config.fit!r}"
        raise UserError(f"{files.config} has {what}: make check looks at runs that train a network")
    if config.init:
        require_shelf(config.init, "init")
    metric, facts = metric_of(competition, files.competition), read_table_facts(files.competition)
    from pipeline.nets.machine import choose_machine
    from pipeline.store.table import read_table
    from pipeline.training.job import Job, check_names
    from pipeline.training.probe import with_batch_size, with_fastest

    machine, table = choose_machine(config.precision, slots()), read_table(files.competition, facts)
    machine.prepare()
    halves = bool(config.pseudo and getattr(load_run(config.pseudo), "halves", False))
    job = Job(files, config.model_copy(update=ROLES), competition, table, metric, machine, "", "", halves)
    check_names(job)
    return with_batch_size(with_fastest(job))


if __name__ == "__main__":
    main(run, __doc__, "run")
