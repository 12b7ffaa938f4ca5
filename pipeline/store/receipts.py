"""Receipts: what a stage read, wrote, chose and measured, with hashes; and how much it saw of each fold's labels."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.store.files import digest_file, read_json, write_json

PACKAGES = (
    "torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy", "pandas", "scikit-learn", "scipy",
    "opencv-python-headless",
)  # fmt: skip
# What an artefact saw of fold k's labels, best first: no ancestor used them; fitted on out-of-fold rows of the other
# folds only; anything else.
LEVELS = ("blind", "crossfit", "saw")
Outputs = Iterable[Path] | dict[Path, Path]


def worst(*levels: str) -> str:
    """Return the worst of some levels."""
    return max(levels, key=LEVELS.index)


@functools.cache
def environment() -> dict[str, Any]:
    """Return what a number may depend on beside its inputs: versions, commit, platform; of when a stage began."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"commit": commit, "python": platform.python_version(), "platform": platform.platform(), **versions}


def write_receipt(path: Path, *, stage: str, key: str, outputs: Outputs, **facts: Any) -> None:
    """Write a receipt: `key` is the hash of everything that `outputs` depend on.

    It comes last of all, or just before the one file that is Make's target: then `outputs` maps each path to the file
    that is about to get its name, and a process killed in between leaves a receipt that is not `fresh`.
    """
    pairs = outputs.items() if isinstance(outputs, dict) else ((p, p) for p in outputs)
    hashes = {str(p): digest_file(now) for p, now in pairs}
    made = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    receipt = {"stage": stage, "key": key, **facts, "outputs": hashes, "made": made, "environment": environment()}
    write_json(path, receipt)


def fresh(path: Path, key: str) -> bool:
    """Say whether the receipt exists, has this key, and every output is what it says."""
    if not path.exists():
        return False
    receipt = read_json(path)
    return bool(receipt.get("key") == key) and not damaged(receipt)


def damaged(receipt: dict[str, Any]) -> list[str]:
    """Return the outputs that are missing or are not what the receipt says."""
    outputs = receipt.get("outputs", {})
    return [name for name, known in outputs.items() if not Path(name).exists() or digest_file(Path(name)) != known]


def touch(path: Path) -> None:
    """Mark a receipt as confirmed, so that Make does not ask again."""
    os.utime(path)
