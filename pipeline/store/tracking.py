"""Mirror a stage to Weights & Biases: one group a run, one W&B run a model, once an epoch.

`log.jsonl` on the shelf is the record; W&B is its mirror. `WANDB_MODE=disabled` costs nothing, not even the import;
without an account the mirror is written offline (`wandb sync` sends it later).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.store.artifacts import CACHE, RunFiles
from pipeline.store.command import word
from pipeline.store.files import Array, digest

log = logging.getLogger(__name__)
TABLE_ROWS = 10_000


class Tracker:
    """What a stage may say to W&B; every call does nothing where tracking is disabled."""

    def __init__(self, wandb: Any = None, run: Any = None) -> None:
        self.wandb, self.run = wandb, run

    def log(self, numbers: dict[str, Any]) -> None:
        """Add one point to the history."""
        if self.run is not None:
            self.run.log(numbers)

    def summary(self, numbers: dict[str, Any]) -> None:
        """Set summary values."""
        if self.run is not None:
            self.run.summary.update(numbers)

    def table(self, name: str, columns: dict[str, Array]) -> None:
        """Log a table (its first 10,000 rows: the whole one lies on the shelf)."""
        if self.run is not None:
            rows = [list(row) for row in zip(*(c[:TABLE_ROWS].tolist() for c in columns.values()), strict=True)]
            self.run.log({name: self.wandb.Table(columns=list(columns), data=rows)})

    def artifact(self, name: str, kind: str, *paths: Path) -> None:
        """Log files as one artefact."""
        if self.run is not None:
            artifact = self.wandb.Artifact(name.replace("/", "-"), type=kind)
            for path in paths:
                artifact.add_file(str(path), policy="immutable", skip_cache=True)
            self.run.log_artifact(artifact)


@contextlib.contextmanager
def track(files: RunFiles, stage: str, config: dict[str, Any], key: str, part: str = "") -> Iterator[Tracker]:
    """Open the W&B run of a stage (of one model); the same key continues the same W&B run."""
    if word("WANDB_MODE") == "disabled":
        yield Tracker()
        return
    import wandb

    for variable, folder in (("WANDB_CACHE_DIR", "cache"), ("WANDB_DATA_DIR", "data")):
        os.environ.setdefault(variable, str((CACHE / "wandb" / folder).absolute()))
    files.folder.mkdir(parents=True, exist_ok=True)
    mode = _mode()
    try:
        run = _open(wandb, files, stage, config, key, part, mode)
    except wandb.errors.Error as error:
        # A mirror that cannot be opened must not cost the training that it mirrors.
        log.warning("tracking is off for %s: %s", files.run, error)
        yield Tracker()
        return
    try:
        yield Tracker(wandb, run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


@functools.cache
def _mode() -> str:
    """Return WANDB_MODE, else online with an account that answers, else offline."""
    import wandb

    mode = word("WANDB_MODE")
    if not mode:
        try:
            mode = "online" if wandb.login(prompt=False) else "offline"
        except wandb.errors.Error as error:
            log.warning("W&B does not answer: %s", error)
            mode = "offline"
    log.info("W&B: %s (WANDB_MODE=disabled turns it off; wandb sync sends offline runs)", mode)
    return mode


def _open(wandb: Any, files: RunFiles, stage: str, config: dict[str, Any], key: str, part: str, mode: Any) -> Any:
    """Start the W&B run, or continue the one of the same key."""
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "podium"),
        group=files.run,
        job_type=stage,
        name=f"{files.run}/{part}" if part else files.run,
        id=digest(files.run, stage, key, part)[:16],
        resume="allow" if mode == "online" else None,
        config={**config, "run": files.run, "part": part, "key": key},
        dir=files.folder,
        mode=mode,
        # Receipts tell versions; to list every installed package would take .1 s for each model.
        settings=wandb.Settings(silent=True, console="off", x_save_requirements=False),
    )
