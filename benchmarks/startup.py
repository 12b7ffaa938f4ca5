"""What is waited for before anything happens: `make` with nothing to do, a stage with nothing to do, a mistake told.

The peer of the first two is what a stage costs that imports what it might need (torch, albumentations, W&B) and then
looks whether there is anything to do. The house is a copy in a temporary folder whose targets are touched, but for one
run of digits that is really trained, for one epoch. Bytecode is cached, as it is for a user.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import Row, main, race

ROOT = Path(__file__).resolve().parents[1]
CHAIN = ("runs/digits/tags/cv.json", "submissions/digits/final.csv")
EAGER = "import torch, wandb, pipeline.training.fold, pipeline.training.shelf, runpy, sys; sys.argv = ['', 'digits/quick']; "
EAGER += "runpy.run_module('pipeline.stages.train', run_name='__main__')"
# Of every stage a mistake in its arguments, and what the environment or a config may say wrongly.
MISTAKES: list[tuple[str, list[str], dict[str, str]]] = [
    *((name, ["digits/nope"], {}) for name in ("train", "ensemble", "pseudo", "tag", "lb", "full", "submit", "audit")),
    *((name, ["digts"], {}) for name in ("data", "folds", "status")),
    ("new", ["other"], {"DATA": "nowhere"}),
    ("vary", ["digits/baseline", "other"], {"SET": "optim.lrr=1"}),
    ("ledger", ["digits/final"], {"PUBLIC": "high"}),
    ("train", ["digits/mistyped"], {}),
    ("train", ["digits/baseline"], {"PODIUM_THREADS": "two"}),
    ("lb", ["digits/final"], {"WANDB_MODE": "of"}),
    ("ensemble", ["digits/baseline"], {}),
]


def call(*command: str, code: int = 0, **env: str) -> str:
    """Run a command, which ends with a status, and return what it said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PYTHONDONTWRITE"))}
    done = subprocess.run(command, env=clean | {"WANDB_MODE": "disabled"} | env, capture_output=True, text=True)
    assert done.returncode == code, f"{command}: {done.stderr}"
    return done.stdout + done.stderr


def stage(name: str, *arguments: str, **more: object) -> str:
    return call(".venv/bin/python", "-m", f"pipeline.stages.{name}", *arguments, **more)  # type: ignore[arg-type]


def house() -> int:
    """Build a house in the working folder whose demo is done; return how many stages that took."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, name)
    shutil.copytree(ROOT / "configs" / "digits", "configs/digits")
    for name, text in {"quick": "epochs = 1", "mistyped": 'optim.schedule = "cosin"'}.items():
        Path(f"configs/digits/{name}.toml").write_text(f'base = "baseline"\n{text}\n')
    shutil.copytree(ROOT / "pipeline", "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    Path(".venv/bin").mkdir(parents=True)
    python = Path(".venv/bin/python")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    Path(".venv/.ready").touch()
    stages = len(set(re.findall(r"pipeline\.stages\.\w+ \S+", call("make", "-n", "COMP=digits", *CHAIN))))
    call("make", "train", "COMP=digits", "NAME=quick")
    for path in Path("configs/digits").glob("*.toml"):
        Path("runs/digits", path.stem).mkdir(parents=True, exist_ok=True)
    Path("submissions/digits").mkdir(parents=True)
    call("make", "--touch", "COMP=digits", *CHAIN)
    return stages


def seconds(work: Callable[[], object], n: int = 5) -> float:
    """Return the median time of n calls, after one that is not measured."""
    work()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        stages = house()

        def nothing() -> str:
            return call("make", "COMP=digits", *CHAIN)

        assert nothing().count("is up to date") == len(CHAIN)
        row, *_ = race(
            "a stage with nothing to do",
            "the same after importing torch",
            lambda: stage("train", "digits/quick"),
            lambda: call(".venv/bin/python", "-c", EAGER),
            target=5,
        )
        ours = seconds(nothing)
        note = f"ratio = 0.1 s / ours; {stages} stages, the peer's one measured; audit and ledger, which make demo prints anew, apart"
        yield Row("make, nothing to do, whole demo", "stages that import torch", ours, stages * row.theirs, 0.1 / ours, 1, 5, note)  # fmt: skip
        yield row
        told = {}
        for name, arguments, env in MISTAKES:
            said = " ".join([name, *arguments, *(f"{k}={v}" for k, v in env.items())])
            told[said] = seconds(partial(stage, name, *arguments, code=2, **env))
        slowest = max(told, key=lambda said: told[said])
        note = f"ratio = 0.5 s / the slowest of {len(told)}: {slowest}; median {statistics.median(told.values()):.2f} s"
        yield Row("a mistake told by a stage", "limit .5 s", told[slowest], 0.5, 0.5 / told[slowest], 1, 5, note)
        os.chdir(ROOT)


if __name__ == "__main__":
    main(rows)
