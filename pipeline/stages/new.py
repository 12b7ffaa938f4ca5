"""Look at a competition folder and write its contract, a baseline, a second member, a blend and an ablation."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path

from pipeline.look.given import descend
from pipeline.store.artifacts import CONFIGS, CompetitionFiles, RunFiles
from pipeline.store.command import main
from pipeline.store.errors import UserError, nearest
from pipeline.store.files import write_text


def run(args: argparse.Namespace) -> None:
    """Write `configs/<competition>/` and link `data/<competition>`; never overwrite, all or nothing."""
    name, weights = args.competition, os.environ.get("WEIGHTS") or "none"
    files = CompetitionFiles(name)
    if not name:
        raise UserError("make new needs COMP=<name>: what the competition will be called here")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"COMP={name!r}: use letters, digits, '.', '_' and '-', and begin with a letter or digit")
    given = os.environ.get("DATA", "")
    if not given:
        raise UserError("make new needs DATA=<folder>: the one with train.csv, the images and sample_submission.csv")
    data = Path(os.path.abspath(os.path.expanduser(given)))
    refuse_to_overwrite(files, data)
    descend(data)

    from pipeline.look.configs import WEIGHTS, starters
    from pipeline.look.look import look, prove  # pandas and OpenCV: only where there is work
    from pipeline.look.words import to_toml
    from pipeline.store.toml import literal

    if weights not in WEIGHTS:
        raise UserError(f"WEIGHTS={weights!r}; {nearest(weights, WEIGHTS)}")
    found = prove(look(data), files.config)
    refuse_to_overwrite(files, found.path)
    title = [
        f"{name}: written by `make new`; each line tells what was seen and why, those marked uncertain want a look.",
        f"make folds COMP={name}",
    ]
    texts = {files.config: to_toml([*title, *found.notes], found.findings)}
    texts |= {RunFiles(f"{name}/{run}").config: text for run, text in starters(name, found, weights).items()}
    put_in_place(files, found.path, texts)

    for finding in found.findings:
        print(f"{finding.key + ('' if finding.value is None else f' = {literal(finding.value)}')}\n    {finding}")
    for note in found.notes:
        print(f"note: {note}")
    say_next(name, files, list(texts))


def refuse_to_overwrite(files: CompetitionFiles, data: Path) -> None:
    """Refuse where configs or other data of this name are there already."""
    there = sorted(files.config.parent.glob("*")) if files.config.parent.exists() else []
    if there:
        raise UserError(f"{there[0]} exists already, nothing is overwritten: choose another COMP, or move it away")
    if os.path.lexists(files.data) and files.data.resolve() not in (data.resolve(), *data.resolve().parents):
        raise UserError(f"{files.data} exists already and is not {data}: choose another COMP, or move it away")


def put_in_place(files: CompetitionFiles, data: Path, texts: dict[Path, str]) -> None:
    """Link the data and write all configs, or neither."""
    building = CONFIGS / f".{files.name}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    for path, text in texts.items():
        write_text(building / path.name, text)
    linked = not os.path.lexists(files.data)
    if linked:
        files.data.parent.mkdir(exist_ok=True)
        files.data.symlink_to(data)
    try:
        building.rename(files.config.parent)
    except OSError:
        if linked:
            files.data.unlink()
        shutil.rmtree(building, ignore_errors=True)
        raise


def say_next(name: str, files: CompetitionFiles, written: list[Path]) -> None:
    """Print what was written and the next commands."""
    print(f"\nwrote {', '.join(map(str, written))}; {files.data} -> {os.path.realpath(files.data)}")
    for command, why in (
        (f"$EDITOR {files.config}", "check what is marked uncertain"),
        (f"make folds  COMP={name}", "split once; look at the balance table"),
        (f"make check  COMP={name} NAME=baseline", "is anything broken, what will it cost?"),
        (f"make train  COMP={name} NAME=baseline", "every fold"),
        (f"make submit COMP={name} NAME=blend", "both members, their blend, the file for Kaggle"),
        (f"make ablate COMP={name} NAME=ablate", "which changes to the baseline help"),
    ):
        print(f"  {command:<44} # {why}")


if __name__ == "__main__":
    main(run, __doc__, "competition")
