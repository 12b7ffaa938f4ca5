"""Draw the edges of the Make graph from the configs, so that a new run never edits the Makefile."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pipeline.store.artifacts import CONFIGS, CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.toml import RUN_STAGES, parents, read_run, read_toml

# Anything else would be syntax to Make.
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def runs() -> list[str]:
    """Return every run id that has a config."""
    found = [path.relative_to(CONFIGS) for path in sorted(CONFIGS.glob("*/*.toml"))]
    for path in found:
        if not NAME.fullmatch(str(path)):
            print(f"warning: {CONFIGS / path} is left out: use letters, digits, '.', '_' and '-'", file=sys.stderr)
    return [str(path.with_suffix("")) for path in found if NAME.fullmatch(str(path)) and path.stem != "competition"]


def competitions() -> list[str]:
    """Return every competition that has a contract."""
    return sorted(path.parent.name for path in CONFIGS.glob("*/competition.toml"))


def class_folders(files: CompetitionFiles) -> str:
    """Return the class folders of a contract whose `train` is a glob of images, after a space."""
    try:
        train = str(read_toml(files.config).get("train", ""))
    except UserError:
        return ""  # its own target reports it
    return f" {files.data}/{train.rpartition('/')[0]}" if "*" in train else ""


def check_cycles(edges: dict[str, list[str]]) -> None:
    """Refuse a cycle by name: Make would only warn and drop an edge."""
    done: set[str] = set()

    def visit(run: str, path: tuple[str, ...]) -> None:
        if run in path:
            raise UserError(f"configs form a cycle: {' -> '.join((*path[path.index(run) :], run))}; remove one edge")
        if run not in done:
            for parent in edges.get(run, []):
                visit(parent, (*path, run))
            done.add(run)

    for run in edges:
        visit(run, ())


def edges_of(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return run -> parents for the settings of all runs."""
    return {run: parents(run, settings) for run, settings in found.items()}


def draw() -> str:
    """Return the text of `.graph.mk`: per competition its inputs, per run its stage, configs and parents."""
    lines = ["# written by pipeline/store/graph.py from configs/; do not edit", "RUNS :="]
    for name in competitions():
        files = CompetitionFiles(name)
        raw = f"{files.data} {files.data}/*{class_folders(files)}"
        lines.append(f"{files.data_receipt}: {files.config} $(wildcard {raw})")
        lines.append(f"{files.table}: {files.config} {files.data_receipt} $(wildcard {files.folds})")
    found: dict[str, dict[str, Any]] = {}
    for run in runs():
        files_of_run = RunFiles(run)
        try:
            settings, sources = read_run(run)
        except UserError as error:
            # One broken config must not stop the others: its own target reports it.
            print(f"warning: {error}", file=sys.stderr)
            settings, sources = {}, [files_of_run.config]
        found[run] = settings
        needs: list[Path] = [*sources, files_of_run.competition.config, files_of_run.competition.table]
        needs += sorted(files_of_run.competition.config.parent.glob("*.py"))  # a metric file
        # A member without a config is told by the stage, with the nearest name.
        needs += [RunFiles(p).receipt for p in parents(run, settings) if RunFiles(p).config.exists()]
        lines.append(f"RUNS += {files_of_run.receipt}")
        stage = settings.get("stage", "train")
        # An unknown stage goes to `train`, whose schema names the nearest one.
        lines.append(f"stage.{run} := {stage if stage in RUN_STAGES else 'train'}")
        lines.append(f"{files_of_run.receipt}: {' '.join(map(str, dict.fromkeys(needs)))}")
    check_cycles(edges_of(found))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        print(draw(), end="")
    except UserError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(2)
