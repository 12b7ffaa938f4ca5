"""Trials shared out between processes: each takes the next one that nobody holds, and leaves those that are done."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.launch import side_by_side, slots
from pipeline.store.artifacts import RunFiles
from pipeline.store.command import log_to
from pipeline.trials.bench import Bench, Unit
from pipeline.trials.trial import attempt, is_done

log = logging.getLogger("pipeline.trials")
T = TypeVar("T")


def run_units(bench: Bench, units: Sequence[Unit]) -> None:
    """Run what has not been run, one after another or side by side."""
    left = [unit for unit in units if not _done(bench, unit)]
    if units:
        log.info("%s: %d of %d fits to run", bench.files.run, len(left), len(units))
    count = min(slots(), len(left))
    if count > 1:
        side_by_side(functools.partial(_share, bench.files.run, left), count)
    else:
        _run(bench, left)


def work_off(units: Sequence[T], lock: Callable[[T], Path], done: Callable[[T], bool], do: Callable[[T], None]) -> None:
    """Do what is not done and what no other process is about to do."""
    for unit in units:
        with claimed(lock(unit)) as mine:
            if mine and not done(unit):
                do(unit)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Say whether this process holds a lock that no other held; a dead holder frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _share(run: str, units: Sequence[Unit], slot: int, count: int) -> None:
    """Run a share of the trials of a run that another process has prepared and waits for."""
    with log_to(RunFiles(run).log):
        _run(Bench.of(run), units)


def _run(bench: Bench, units: Sequence[Unit]) -> None:
    where = functools.partial(_lock, bench)
    work_off(units, where, functools.partial(_done, bench), functools.partial(attempt, bench))


def _lock(bench: Bench, unit: Unit) -> Path:
    return unit.trials[0].files(bench.files).lock


def _done(bench: Bench, unit: Unit) -> bool:
    return all(is_done(bench, trial) for trial in unit.trials)
