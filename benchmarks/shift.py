"""Learn from clean digits, predict others that are faint, blurred and noisy: what adapting to them is worth.

    python benchmarks/shift.py [seeds=3] [epochs=10]

The other column is of the same test images as they are: adapting must do no harm where nothing is shifted; `asked` are runs
that adapt only where a shift is shown. Accuracy of
the mean of the folds' models on the test images, and out of fold, mean +- standard error over seeds (of labels and
weights); differences to the run that is not adapted are paired by seed.
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

import cv2
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.files import Array, read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table

LABELLED, TEST = 400, 800
CONTRACT = """task = "multiclass"
metric = "accuracy"
id = "id"
target = "label"
[images]
pattern = "{split}/{id}.png"
channels = "grey"
[folds]
n = 2
"""
RUN = """seed = {seed}
epochs = {epochs}
batch_size = 32
image.size = 16
augment.recipe = "none"
optim.lr = 5e-3
[model]
name = "cnn"
options = {{ widths = [16, 32] }}
{more}
"""
WAYS = {
    "none": "",
    "AdaBN, replace": '[predict]\nbn = "replace"',
    "AdaBN, blend": '[predict]\nbn = "blend"',
    "target-forward": '[semi]\nmethod = "target_forward"',
    "mean teacher": '[semi]\nmethod = "mean_teacher"',
    "FixMatch": '[semi]\nmethod = "fixmatch"',
    "MMT": '[semi]\nmethod = "mmt"',
    "mean teacher, asked": '[semi]\nmethod = "mean_teacher"\nwhen = "shifted"',
    "FixMatch, asked": '[semi]\nmethod = "fixmatch"\nwhen = "shifted"',
    "MMT, asked": '[semi]\nmethod = "mmt"\nwhen = "shifted"',
}


def shifted(image: Array, rng: np.random.Generator) -> Array:
    """Return an image (8 x 8) at a third of its contrast and brighter, blurred, with noise."""
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.6)
    return np.clip(90 + 0.35 * blurred + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def write_competition(name: str, seed: int, shift: bool, epochs: int) -> None:
    """Write images, tables, contract and runs of one column and seed into the working folder."""
    rng, digits = np.random.default_rng(seed), load_digits()
    rows = rng.permutation(len(digits.target))[: LABELLED + TEST]
    ids, data, configs = np.array([f"{n:04d}" for n in rows]), Path("data") / name, Path("configs") / name
    for split, part in (("train", rows[:LABELLED]), ("test", rows[LABELLED:])):
        (data / split).mkdir(parents=True)
        for row in part:
            image = np.round(digits.images[row] * (255 / 16)).astype(np.uint8)
            image = shifted(image, rng) if shift and split == "test" else image
            cv2.imwrite(str(data / split / f"{row:04d}.png"), image)
    table = pd.DataFrame({"id": ids, "label": digits.target[rows]})
    table[:LABELLED].to_csv(data / "train.csv", index=False)
    table[LABELLED:].assign(label=0).to_csv(data / "sample_submission.csv", index=False)
    table[LABELLED:].to_csv(data / "truth.csv", index=False)
    configs.mkdir(parents=True)
    (configs / "competition.toml").write_text(CONTRACT)
    for n, more in enumerate(WAYS.values()):
        (configs / f"way{n}.toml").write_text(RUN.format(seed=seed, epochs=epochs, more=more))


def stage(name: str, run: str) -> None:
    """Run a stage in this process."""
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def measured(name: str, way: int) -> tuple[float, float, float]:
    """Train a run; return its accuracy on the test images, out of fold, and its seconds."""
    run, started = f"{name}/way{way}", time.process_time()
    stage("train", run)
    files = CompetitionFiles(name)
    table, truth = read_table(files, read_table_facts(files)), pd.read_csv(f"data/{name}/truth.csv", dtype={"id": str})
    said = np.load(RunFiles(run).test).argmax(1)
    oof = read_json(RunFiles(run).receipt)["metrics"]["score"]
    return (
        float((said == truth.set_index("id")["label"][table.ids[table.test]]).mean()),
        oof,
        time.process_time() - started,
    )


def shown(values: Array) -> str:
    """Return a mean and its standard error."""
    se = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.4f} +- {se:.4f}"


def main() -> None:
    """Print the table."""
    seeds, epochs = (int(sys.argv[at]) if len(sys.argv) > at else given for at, given in ((1, 3), (2, 10)))
    logging.disable(logging.WARNING)
    os.chdir(tempfile.mkdtemp(prefix="shift"))
    found = {}
    for shift in (True, False):
        for seed in range(seeds):
            name = f"{'other' if shift else 'same'}{seed}"
            write_competition(name, seed, shift, epochs)
            stage("data", name)
            stage("folds", name)
            for way in range(len(WAYS)):
                found[shift, seed, way] = measured(name, way)
    print(f"digits: {LABELLED} labelled, {TEST} test images, 2 folds, {epochs} epochs, {seeds} seeds")
    print(f"{'':20}{'shifted test':>20}{'gain':>20}{'plain test':>20}{'gain':>20}{'OOF, shifted':>20}{'s a run':>9}")
    for way, title in enumerate(WAYS):
        cells = []
        for shift in (True, False):
            each, base = (np.array([found[shift, seed, w][0] for seed in range(seeds)]) for w in (way, 0))
            cells += [shown(each), shown(each - base) if way else ""]
        oof, seconds = (np.array([found[True, seed, way][n] for seed in range(seeds)]) for n in (1, 2))
        print(f"{title:20}" + "".join(f"{cell:>20}" for cell in (*cells, shown(oof))) + f"{seconds.mean():9.1f}")


if __name__ == "__main__":
    main()
