"""Split the labelled rows into folds, once, and turn the raw tables into the table of record."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.command import main
from pipeline.store.config import Competition, load_competition
from pipeline.store.files import atomic, lock
from pipeline.store.keys import folds_key
from pipeline.store.receipts import fresh, touch, write_receipt

log = logging.getLogger("pipeline.folds")


def run(args: argparse.Namespace) -> None:
    """Write the table of record, the committed split and how it was made."""
    config, files = load_competition(args.competition), CompetitionFiles(args.competition)
    metric_of(config, files)
    with lock(files.lock, f"competition {files.name}"):
        if fresh(files.table_receipt, folds_key(config, files)):
            return touch(files.table)
        from pipeline.competitions.record import build  # pandas and scikit-learn: only where there is work

        with atomic(files.table) as target:
            facts, hashes = build(config, files, target, encoder_of(config, files))
            masks = [files.masks] if config.task == "segmentation" else []
            outputs = {path: path for path in (files.folds, files.folds_receipt, *masks)} | {files.table: target}
            key = folds_key(config, files)
            write_receipt(files.table_receipt, stage="folds", key=key, outputs=outputs, **hashes)
            touch(target)  # Make's target must be younger than the split that was written after it
        say(files, facts)


def encoder_of(config: Competition, files: CompetitionFiles) -> Callable[[Any, Any], Any] | None:
    """Return what says how images look, where the config names an encoder: only then is torch imported."""
    if config.folds.encoder is None:
        return None
    from pipeline.training.encoder import encode

    return partial(encode, files, images=config.images, how=config.folds.encoder)


def say(files: CompetitionFiles, facts: dict[str, Any]) -> None:
    """Print the balance table and the warnings."""
    rows = facts["rows"]
    log.info("%s: %s, %d train rows, %d test rows", files.folds, facts["method"], rows["train"], rows["test"])
    table = {"rows": rows["each_fold"], **facts["balance"]}
    width = max(map(len, table))
    for name, counts in table.items():
        log.info("  %-*s %s", width, name, " ".join(f"{count:6d}" for count in counts))
    if "masks" in facts:
        share = ", ".join(f"{name} {value:.1%}" for name, value in facts["masks"]["coverage"].items())
        log.info("  masks: %d empty; of an image they cover on average: %s", facts["masks"]["empty"], share)
        if "scored" in facts["masks"]:
            log.info("  masks: scored are %s alone, which the sample asks for", ", ".join(facts["masks"]["scored"]))
    if "holdout" in facts:
        log.info("  holdout: %d rows, never learnt from", rows["holdout"])
    if "near_copies" in facts:
        told = "  near copies: %(rows)d rows joined in %(sets)d sets, the largest of %(largest)d"
        log.info(told, facts["near_copies"])
    for warning in facts["warnings"]:
        log.warning("warning: %s", warning)


if __name__ == "__main__":
    main(run, __doc__, "competition")
