"""What metric learning and principal components do to features: retrieval and accuracy out of fold, over seeds.

    python benchmarks/metric_learning.py <folder of omniglot-small1> [seeds=3] [characters=40]

Characters of twenty drawers each at 24 px, two folds, a small CNN, 25 epochs. Effects are paired over seeds, their
standard error is over them; principal components are of the features of the same models.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
os.environ.setdefault("PODIUM_THREADS", "1")

import numpy as np
import pandas as pd

from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_json

CONTRACT = """task = "multiclass"
metric = "accuracy"
id = "image"
target = "character"
[images]
pattern = "images/{id}"
channels = "grey"
[folds]
n = 2
"""
RUN = """seed = {seed}
epochs = 25
batch_size = 64
{top}
[model]
name = "cnn"
options = {{ widths = [16, 32, 64] }}
[image]
size = 24
[augment]
recipe = "shift"
[optim]
lr = 3e-3
[retrieval]
k = 10
{rest}
"""
BATCHES = "\n[sampling]\nper_class = 4"
WAYS = {
    "cross-entropy": "",
    "the same, 4 rows a class": BATCHES,
    "neck": "\n[metric_learning]\nneck = true",
    "triplets": '\n[metric_learning]\nloss = "triplet"' + BATCHES,
    "triplets, neck": '\n[metric_learning]\nloss = "triplet"\nneck = true' + BATCHES,
    "soft triplets, neck": '\n[metric_learning]\nloss = "triplet"\nmargin = "soft"\nneck = true' + BATCHES,
    "ArcFace": '\n[metric_learning]\nloss = "arcface"',
}
COMPONENTS = {"16": "pca = 16", "16, whitened": "pca = 16\nwhiten = true"}


def stage(name: str, run: str) -> dict[str, float]:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))
    report = read_json(RunFiles(run).receipt)["metrics"] if name == "train" else {}
    return report and {"accuracy": report["score"], **{key: report["retrieval"][key] for key in ("map", "top1")}}


def make(source: Path, characters: int) -> None:
    """Write the competition: the last two drawers of each character are its test rows."""
    known = pd.read_csv(source / "images.csv", dtype=str)
    known = known[known.character.isin(known.character.unique()[:characters])]
    test = known.drawer.astype(int) > 18
    data = Path("data/o")
    data.mkdir(parents=True)
    (data / "images").symlink_to(source / "images")
    known[~test][["image", "character"]].to_csv(data / "train.csv", index=False)
    known[test][["image", "character"]].to_csv(data / "sample_submission.csv", index=False)
    Path("configs/o").mkdir(parents=True)
    Path("configs/o/competition.toml").write_text(CONTRACT)
    for name in ("data", "folds"):
        stage(name, "o")


def show(what: str, found: list[dict[str, float]], base: list[dict[str, float]]) -> None:
    words = []
    for key in ("map", "top1", "accuracy"):
        value = np.array([told[key] for told in found])
        gain = value - [told[key] for told in base]
        words.append(f"{key} {value.mean():.4f} ({gain.mean():+.4f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.4f})")
    print(f"{what:38s} " + "   ".join(words), flush=True)


def main() -> None:
    source = Path(sys.argv[1]).absolute()
    seeds, characters = (int(sys.argv[at]) if len(sys.argv) > at else usual for at, usual in ((2, 3), (3, 40)))
    logging.disable(logging.WARNING)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(source, characters)
        base: list[dict[str, float]] = []
        ways = [(way, "", rest) for way, rest in WAYS.items()] + [("untrained features", 'fit = "linear"', "")]
        for number, (way, top, rest) in enumerate(ways):
            runs = [RunFiles(f"o/r{number}-{seed}") for seed in range(seeds)]
            found = {}
            for name, components in {"": "", **COMPONENTS}.items():
                for seed, run in enumerate(runs):
                    run.config.write_text(RUN.format(seed=seed, top=top, rest=components + rest))
                found[name] = [stage("train", run.run) for run in runs]
            base = base or found[""]
            show(way, found[""], base)
            for name in COMPONENTS:
                show(f"    {way}, {name}"[:38], found[name], found[""])
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
