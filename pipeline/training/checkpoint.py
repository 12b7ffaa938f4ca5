"""Where a training stands: the checkpoint that a killed one continues from, and the log that is cut back to it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from pipeline.store.files import atomic

log = logging.getLogger(__name__)


def write_log(path: Path, entry: dict[str, Any], losses: list[float]) -> None:
    """Append the loss of every step of an epoch, then the epoch's line."""
    first = entry["step"] - len(losses)
    lines = [{"step": step, "epoch": entry["epoch"], "loss": loss} for step, loss in enumerate(losses, first)]
    with open(path, "a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in [*lines, entry])


def save(path: Path, key: str, epoch: int, parts: dict[str, Any]) -> None:
    """Write where a training stands after an epoch: the state of its parts and of chance."""
    state = {name: part.state_dict() for name, part in parts.items()}
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    # Given a path, torch turns a full disk into a RuntimeError that `atomic` cannot know.
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        torch.save({"key": key, "epoch": epoch, "random": random, **state}, handle)


def resume(path: Path, key: str, parts: dict[str, Any], log_file: Path) -> int:
    """Load a checkpoint of the same key and cut the log back to it; return the epoch to begin with."""
    begin = 0
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] == key:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["random"]["cpu"])
            if "cuda" in state["random"] and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["random"]["cuda"])
            begin = state["epoch"] + 1
            log.info("%s: continuing after epoch %d", path.parent, state["epoch"])
        else:
            path.unlink()  # of another config, whose log is about to be cut
    kept = []
    if begin and log_file.exists():
        # A killed process may have left half a line at the end.
        for line in log_file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and json.loads(line)["epoch"] < begin:
                kept.append(line)
    with atomic(log_file) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return begin
