"""The leak table: the gain that naive recipes show in cross-validation, and the gain that unseen labels show.

    python benchmarks/leaks.py [seeds=5] [labelled:noise ...] [recipe ...]

Digits with our own CNN; every student takes its teacher's optimiser steps. `cv` is the out-of-fold gain over the
teacher on the clean labels of the labelled rows, `as given` on their labels as given (what a user sees), `private`
the mean gain of the K single models on the private rows. The naive recipes exist here and in a test, nowhere else:
they are made by putting what they would use onto a shelf of ours and signing it again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
os.environ.setdefault("PODIUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.competitions.digits import make
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import digest_file, read_json, write_json, write_npy

BASE = """pairs = {pairs}
epochs = {epochs}
model.name = "cnn"
model.options = {{ widths = [16, 32] }}
image.size = 16
augment.recipe = "none"
optim.lr = 3e-3
"""
STUDENTS = {
    "pseudo-labels": ("pseudo", 'pseudo = "{}"\n'),
    "distillation": ("teacher", 'teacher = "{}"\n'),
    "relabelling": ("tags", 'tags = "{}"\ndifficulty.suspect = "relabel"\n'),
}


def stage(name: str, run: str) -> None:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def world(labelled: int, noise: float, seed: int, epochs: int, pairs: bool = True) -> np.ndarray:
    """Make a competition of digits in the working folder; return the clean labels of its train rows."""
    data, configs = Path("data/d"), Path("configs/d")
    make(data, labelled, seed)
    configs.mkdir(parents=True)
    train = pd.read_csv(data / "train.csv", dtype={"id": str})
    clean = train["label"].to_numpy()
    rng = np.random.default_rng([seed, 9])
    wrong = rng.permutation(len(clean))[: round(noise * len(clean))]
    given = clean.copy()
    given[wrong] = (clean[wrong] + rng.integers(1, 10, len(wrong))) % 10
    train.assign(label=given).to_csv(data / "train.csv", index=False)
    (configs / "competition.toml").write_text(
        'task = "multiclass"\nmetric = "accuracy"\nid = "id"\ntarget = "label"\n'
        f'[images]\npattern = "{{split}}_images/{{id}}.png"\nchannels = "grey"\n[folds]\nseed = {seed}\n'
    )
    (configs / "teacher.toml").write_text(BASE.format(epochs=epochs, pairs=str(pairs).lower()))
    (configs / "pseudo.toml").write_text('stage = "pseudo"\nrun = "teacher"\n')
    (configs / "tags.toml").write_text(f'stage = "tag"\nrun = "teacher"\nstrict = {str(pairs).lower()}\n')
    for name, (role, text) in STUDENTS.items():
        for kind, source in (("ours", role), ("naive", f"{role}-naive")):
            (configs / f"{name}-{kind}.toml").write_text('base = "teacher"\npairs = false\n' + text.format(source))
    for role in ("pseudo", "teacher", "tags"):
        (configs / f"{role}-naive.toml").write_text((configs / f"{role}.toml").read_text())
    return clean


def forge(role: str) -> None:
    """Copy the shelf that a student would learn from and put in its place what the naive recipe would use."""
    honest, naive = RunFiles(f"d/{role}"), RunFiles(f"d/{role}-naive")
    shutil.copytree(honest.folder, naive.folder)
    teacher, table = RunFiles("d/teacher"), pd.read_csv("cache/d/table.csv", dtype={"id": str})
    scored, test = table[table["fold"] >= 0], table[table["fold"] == -1]
    oof = np.load(teacher.oof)
    if role == "pseudo":  # labels by all folds' models together, the same for every student
        labels = np.eye(10)[np.load(teacher.test).argmax(1)]
        rows = {"id": test["id"], "repeat": 0, "half": -1, "weight": 1.0}
        hard = {f"t{c}": labels[:, c] for c in range(10)}
        parts = [pd.DataFrame({**rows, "fold": k, **hard}) for k in range(5)]
        pd.concat(parts).to_csv(naive.pseudo, index=False)
    elif role == "teacher":  # out-of-fold predictions as targets: their models have trained on fold k
        for k in range(5):
            write_npy(naive.fold(k).train, oof)
    else:  # tags from out-of-fold predictions, the same for every fold
        report = pd.read_csv(honest.difficulty, dtype={"id": str})
        suspect = report.set_index("id").loc[scored["id"], "tag"].to_numpy() == "suspect"
        said = {f"t{c}": np.eye(10)[oof.argmax(1)][:, c] for c in range(10)}
        rows = {"id": scored["id"], "repeat": 0, "weight": 1.0, "tag": np.where(suspect, "suspect", "easy")}
        parts = [pd.DataFrame({**rows, "fold": k, "difficulty": 0.0, **said}) for k in range(5)]
        pd.concat(parts).to_csv(naive.difficulty_train, index=False)
    sign(naive, honest, halves=False)


def sign(naive: RunFiles, honest: RunFiles, halves: bool) -> None:
    """Make the receipts of a copied shelf speak of it, models first."""
    for receipt in sorted(naive.folder.glob("**/*.json"), key=lambda path: -len(path.parts)):
        known = read_json(receipt)
        if "outputs" in known:
            moved = {name.replace(f"{honest.folder}/", f"{naive.folder}/"): 0 for name in known["outputs"]}
            known["outputs"] = {name: digest_file(Path(name)) for name in moved}
            known["run"] = naive.run
            if receipt == naive.receipt and "halves" in known["config"]:
                known["config"]["halves"] = halves
            write_json(receipt, known)


def scores(run: str, clean: np.ndarray, given: np.ndarray, truth: np.ndarray, private: np.ndarray) -> np.ndarray:
    """Accuracy: out-of-fold on clean and given labels, mean of single models and their blend on the private rows."""
    files = RunFiles(run)
    oof = np.load(files.oof).argmax(1)
    singles = [(np.load(files.fold(k).test).argmax(1) == truth)[private].mean() for k in range(5)]
    blend = (np.load(files.test).argmax(1) == truth)[private].mean()
    return np.array([(oof == clean).mean(), (oof == given).mean(), np.mean(singles), blend])


def one_seed(labelled: int, noise: float, seed: int, epochs: int, recipes: list[str]) -> dict[str, np.ndarray]:
    """Return the gains of every student over its teacher: cv, as given, private, private of the blend."""
    clean = world(labelled, noise, seed, epochs, "relabelling" in recipes)
    for name, run in (("data", "d"), ("folds", "d"), ("train", "d/teacher"), ("pseudo", "d/pseudo"), ("tag", "d/tags")):
        stage(name, run)
    for role in ("pseudo", "teacher", "tags"):
        forge(role)
    solution = pd.read_csv("data/d/solution.csv")
    given = pd.read_csv("data/d/train.csv")["label"].to_numpy()
    truth, private = solution["label"].to_numpy(), (solution["Usage"] == "Private").to_numpy()
    base = scores("d/teacher", clean, given, truth, private)
    gains = {}
    for name in recipes:
        for kind in ("naive", "ours"):
            stage("train", f"d/{name}-{kind}")
            gains[f"{name}, {kind}"] = scores(f"d/{name}-{kind}", clean, given, truth, private) - base
    return gains


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    given = [a for a in sys.argv[2:] if ":" in a] or ["100:0", "300:0.25"]
    settings = [tuple(map(float, a.split(":"))) for a in given]
    recipes = [name for name in STUDENTS if name in sys.argv] or list(STUDENTS)
    logging.disable(logging.WARNING)
    started, home = time.time(), os.getcwd()
    cells = len(STUDENTS) * len(settings)
    # Two standard errors for one cell; for all cells together as much as Student's t with Bonferroni asks.
    limit = stats.t.ppf(1 - stats.norm.sf(2) / cells, seeds - 1)
    print(
        f"{seeds} seeds, gains over the teacher in points of accuracy, mean +- se; |difference| / se beyond {limit:.1f} disagrees"
    )
    print(
        f"{'rows, noise':12} {'recipe':22} {'as given':>13} {'cv':>13} {'private':>13} {'blend':>13} {'cv - private':>13}  /se  given - private  /se"
    )
    for labelled, noise in settings:
        found: dict[str, list[np.ndarray]] = {}
        for seed in range(1, seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    gains = one_seed(int(labelled), noise, seed, 40, recipes)
                finally:
                    os.chdir(home)
            for name, gain in gains.items():
                found.setdefault(name, []).append(gain)
        for name, rows in found.items():
            table = 100 * np.array(rows)
            table = np.column_stack([table, table[:, 0] - table[:, 2], table[:, 1] - table[:, 2]])
            mean, se = table.mean(0), table.std(0, ddof=1) / np.sqrt(seeds)
            told = [f"{m:6.2f} +- {s:4.2f}" for m, s in zip(mean, se, strict=True)]
            z = mean / np.maximum(se, 1e-9)
            print(
                f"{int(labelled):4d}, {noise:4.0%}   {name:22} {told[1]} {told[0]} {told[2]} {told[3]} {told[4]} {z[4]:5.1f} {told[5]} {z[5]:5.1f}",
                flush=True,
            )
            print(
                json.dumps({"rows": labelled, "noise": noise, "recipe": name, "gains": table.round(3).tolist()}),
                file=sys.stderr,
            )
    print(f"{(time.time() - started) / 60:.1f} minutes, {os.environ['PODIUM_THREADS']} thread(s)")


if __name__ == "__main__":
    main()
