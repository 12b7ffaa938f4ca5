"""Search for better settings of a run on one fold, and confirm the best on folds and seeds it was not chosen on."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
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
from pipeline.store.trials import Tune, base_of

if TYPE_CHECKING:  # imports torch, which a search with nothing to do must not pay for
    from pipeline.trials.search import Tried
    from pipeline.trials.tuning import Confirmed, Search

log = logging.getLogger("pipeline.tune")


def run(args: argparse.Namespace) -> None:
    """Leave what was tried, a receipt, and the best settings as a config."""
    files = RunFiles(args.run)
    config, competition = load_run(args.run), load_competition(files.competition.name)
    if not isinstance(config, Tune):
        raise UserError(f'{files.config} has stage = "{config.stage}": run make {config.stage} instead of make tune')
    with lock(files.lock, f"run {args.run}"):
        facts = read_table_facts(files.competition)
        key = trying_key(config, competition, facts)
        if fresh(files.receipt, key):
            return touch(files.receipt)
        refuse_to_overwrite(files, key)
        with log_to(files.log):
            from pipeline.trials.search import load_optuna

            load_optuna()  # before torch: what is missing is told at once
            started, search = time.monotonic(), look(files, config)
            write(search, search.confirm(), key, started)


def look(files: RunFiles, config: Tune) -> Search:
    """Run the rounds of a search, and the confirmation of the best."""
    from pipeline.trials.bench import Bench
    from pipeline.trials.fanout import run_units
    from pipeline.trials.search import ROUND, write_journal
    from pipeline.trials.tuning import Search

    search = Search.of(Bench.of(files.run), config)
    for begin in range(0, config.trials, ROUND):
        run_units(search.bench, search.round(begin))
        search.take(begin)
        write_journal(files.journal, files.run, config, search.known)
        best = max((tried.gain for tried in search.known if tried.state == "done"), default=math.nan)
        told = f"{search.bench.metric.name} {search.loss_or_gain(best):.4f} on fold {config.fold}"
        log.info("%s: %d of %d settings, best %s", files.run, len(search.known), config.trials, told)
    run_units(search.bench, search.last())
    return search


def best_config(files: RunFiles) -> RunFiles:
    """Return the run that the best settings are written as."""
    return RunFiles(f"{files.run}_best")


def refuse_to_overwrite(files: RunFiles, key: str) -> None:
    """Refuse, before anything is tried, where another config has the name of what is found."""
    path = best_config(files).config
    if path.exists() and mark(key) not in path.read_text(encoding="utf-8").splitlines():
        raise UserError(f"{path} exists already and was not written by this search: move it away, or rename the search")


def mark(key: str) -> str:
    """Return the line by which a search knows what it has written."""
    return f"# search {key}"


def write(search: Search, found: Confirmed, key: str, started: float) -> None:
    """Write what was tried, the best settings as a config, and the receipt; say what was found."""
    from pipeline.store.tracking import track

    files, metric, config = search.bench.files, search.bench.metric.name, search.config.model_dump()
    words = in_words(search, found)
    write_text(files.trials, to_csv(search))
    path = best_config(files).config
    if not path.exists():  # one of this search is there already, perhaps with words of yours
        write_text(path, to_toml(search, found, key, words))
    with track(files, "tune", config, key) as tracker:
        tracker.summary({"gain": found.effect.gain, f"cv_{metric}": found.score, "cv_default": found.default})
        tracker.artifact(f"{files.run}-search", "search", files.trials)
    write_receipt(
        files.receipt,
        stage="tune",
        key=key,
        outputs=[files.trials],
        run=files.run,
        config=config,
        fold_map=search.bench.fold_map(None),
        folds=list(search.others),
        parents=[],
        level={},
        steps=search.steps,
        best=asdict(found.best),
        effect=asdict(found.effect),
        verdict=found.effect.confirmed,
        default={"score": found.default, "se": found.default_se},
        metrics={"metric": metric, "score": found.score, "se": found.se},
        seconds=round(time.monotonic() - started, 1),
    )
    for line in words:
        log.info("%s: %s", files.run, line)
    log.info("%s: %s, %s", files.run, files.trials, path)


def in_words(search: Search, found: Confirmed) -> list[str]:
    """Return what was found, for a person."""
    metric, e, config, seed = search.bench.metric.name, found.effect, search.config, search.config.base.seed
    states = [tried.state for tried in search.known]
    lost = len(states) - states.count("done") - states.count("pruned")
    seeds = f"{seed + search.new_seeds[0]} .. {seed + search.new_seeds[-1]}"
    folds = ", ".join(map(str, search.others))
    return [
        f"best of {len(states)} settings on fold {config.fold} ({states.count('pruned')} pruned, {lost} failed), "
        f"{search.steps} steps: {metric} {search.loss_or_gain(found.best.gain):.4f} there, which flatters it",
        f"on folds {folds} and seeds {seeds}, on none of which it was chosen: {metric} {found.score:.4f} +- "
        f"{found.se:.4f}, the base {found.default:.4f} +- {found.default_se:.4f}",
        f"gain {e.gain:+.4f} [{e.low:+.4f}, {e.high:+.4f}]: {e.confirmed}",
    ]


def to_csv(search: Search) -> str:
    """Return what was tried as CSV; what there is not is an empty cell."""
    text, keys = io.StringIO(), list(search.config.search)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "score", "state", *keys])

    def cells(tried: Tried) -> list[object]:
        score = "" if math.isnan(tried.gain) else search.loss_or_gain(tried.gain)
        return [tried.number, score, tried.state, *(tried.settings[key] for key in keys)]

    writer.writerows(cells(tried) for tried in search.known)
    return text.getvalue()


def to_toml(search: Search, found: Confirmed, key: str, words: list[str]) -> str:
    """Return the best settings as a config, with where they come from."""
    from pipeline.store.toml import literal

    files, settings = search.bench.files, dict(found.best.settings)
    competition, name = files.run.split("/")
    origin = base_of(files.run, "tune").split("/")[-1]
    base, mine = search.config.base, search.run_of(settings, "the best")
    if mine.batch_size != base.batch_size:  # as many steps as the base run takes
        each = search.bench.steps(mine)
        settings["epochs"] = max(1, round(base.epochs * search.bench.steps(base) / each))
    lines = [
        f"# {origin} with settings found by make tune COMP={competition} NAME={name}.",
        *(f"# {line}" for line in words),
        f"# make train COMP={competition} NAME={best_config(files).run.split('/')[1]}",
        mark(key),
        f'base = "{origin}"',
        *(f"{name} = {literal(value)}" for name, value in settings.items()),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(run, __doc__, "run")
