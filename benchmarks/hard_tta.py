"""D4 test-time augmentation for all rows against the hard third alone: gain and cost, on one set of models.

    python benchmarks/hard_tta.py <folder with train.csv, train_images/ ...> [seeds=2]

The folder is seedlings' (species from 80 px photographs). Only `predict` changes between the measurements, so nothing
is trained twice; the gain is of the out-of-fold predictions, paired over rows, and of the test rows by the solution.
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

from pipeline.scoring.bootstrap import replicate
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.files import read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table

CONTRACT = """task = "multiclass"
metric = "accuracy"
id = "file"
target = "species"
[images]
pattern = "{split}_images/{id}"
"""
RUN = """seed = {seed}
epochs = 10
model.name = "cnn"
image.size = 32
augment.recipe = "medium"
optim.lr = 3e-3
[predict]
{predict}
"""
WAYS = {
    "one view": "",
    "D4, hard third": 'hard_tta = "d4"\nhard_share = 0.3333',
    "D4, all": 'tta = "d4"',
}


def stage(name: str, run: str) -> None:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def main() -> None:
    source, seeds = Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    logging.disable(logging.WARNING)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("configs/s").mkdir(parents=True)
        Path("data").mkdir()
        Path("data/s").symlink_to(source)
        Path("configs/s/competition.toml").write_text(CONTRACT)
        right: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
        cost: dict[str, float] = dict.fromkeys(WAYS, 0.0)
        stage("data", "s")
        stage("folds", "s")
        files = CompetitionFiles("s")
        table = read_table(files, read_table_facts(files))
        y = table.y[table.scored, 0]
        for seed in range(seeds):
            run = RunFiles(f"s/r{seed}")
            for way, predict in WAYS.items():
                run.config.write_text(RUN.format(seed=seed, predict=predict))
                stage("train", run.run)
                right[way].append(np.load(run.oof).argmax(1) == y)
                cost[way] += sum(read_json(path)["predict_seconds"] for path in run.fold_receipts())
                print(f"seed {seed}, {way}: {right[way][-1].mean():.4f}", file=sys.stderr, flush=True)
    mean = {way: np.mean(rows, 0) for way, rows in right.items()}
    plain, hard, full = mean.values()
    gains = [lambda w, a=a: float(np.average(a - plain, weights=w)) for a in (hard, full)]
    boot = replicate(gains, len(y), table.group, 2000)
    print(
        f"{len(y)} rows, {seeds} seeds; accuracy out-of-fold {plain.mean():.4f}; {(time.time() - started) / 60:.1f} minutes"
    )
    for name, gain, values in zip(list(WAYS)[1:], (hard - plain, full - plain), boot.T, strict=True):
        print(
            f"{name:15} gain {gain.mean():+.4f} +- {values.std(ddof=1):.4f}, prediction takes {cost[name] / cost['one view']:.2f} x"
        )
    share = (hard - plain).mean() / (full - plain).mean()
    kept = boot[:, 0] / boot[:, 1]
    print(
        f"share of the full gain: {share:.2f}, 90 % interval {np.quantile(kept, 0.05):.2f} .. {np.quantile(kept, 0.95):.2f}"
    )


if __name__ == "__main__":
    main()
