"""Do the tags find flipped labels and test errors, and does dropping suspects help more than dropping at random?

    python benchmarks/tags.py [seeds=5]

Digits, 1,200 labelled with 10 % of the labels flipped, 597 test rows, our own CNN. Accuracy after dropping is of test
rows, which nobody flipped, mean of the K single models.
"""

from __future__ import annotations

import argparse
import importlib
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
from sklearn.metrics import roc_auc_score

from pipeline.competitions.digits import make
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import digest_file, read_json, write_json

CONTRACT = """task = "multiclass"
metric = "accuracy"
id = "id"
target = "label"
[images]
pattern = "{{split}}_images/{{id}}.png"
channels = "grey"
[folds]
seed = {seed}
"""
TEACHER = """pairs = true
epochs = 25
model.name = "cnn"
model.options = { widths = [16, 32] }
image.size = 16
augment.recipe = "none"
optim.lr = 3e-3
"""


def stage(name: str, run: str) -> None:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def forge_random(seed: int) -> None:
    """Copy the tags and give the tag `suspect` to as many rows of each fold, drawn at random."""
    honest, other = RunFiles("d/tags"), RunFiles("d/random")
    shutil.copytree(honest.folder, other.folder)
    frame, rng = pd.read_csv(honest.difficulty_train, dtype={"id": str}), np.random.default_rng(seed)
    for k in range(5):
        train = np.flatnonzero((frame["fold"] == k) & frame["t0"].notna())
        count = int((frame["tag"].iloc[train] == "suspect").sum())
        frame.iloc[train, frame.columns.get_loc("tag")] = "easy"
        frame.iloc[rng.permutation(train)[:count], frame.columns.get_loc("tag")] = "suspect"
    frame.to_csv(other.difficulty_train, index=False)
    known = read_json(other.receipt)
    outputs = [Path(name.replace(f"{honest.folder}/", f"{other.folder}/")) for name in known["outputs"]]
    write_json(other.receipt, known | {"run": other.run, "outputs": {str(p): digest_file(p) for p in outputs}})


def one_seed(seed: int) -> dict[str, float]:
    data, configs = Path("data/d"), Path("configs/d")
    make(data, 1200, seed)
    configs.mkdir(parents=True)
    train = pd.read_csv(data / "train.csv", dtype={"id": str})
    clean, rng = train["label"].to_numpy(), np.random.default_rng([seed, 3])
    flipped = np.isin(np.arange(1200), rng.permutation(1200)[:120])
    train.assign(label=np.where(flipped, (clean + rng.integers(1, 10, 1200)) % 10, clean)).to_csv(
        data / "train.csv", index=False
    )
    (configs / "competition.toml").write_text(CONTRACT.format(seed=seed))
    (configs / "teacher.toml").write_text(TEACHER)
    for name in ("tags", "random"):
        (configs / f"{name}.toml").write_text('stage = "tag"\nrun = "teacher"\nstrict = true\n')
        (configs / f"drop-{name}.toml").write_text(
            f'base = "teacher"\npairs = false\ntags = "{name}"\ndifficulty.suspect = "drop"\n'
        )
    for name, run in (("data", "d"), ("folds", "d"), ("train", "d/teacher"), ("tag", "d/tags")):
        stage(name, run)
    forge_random(seed)
    stage("train", "d/drop-tags")
    stage("train", "d/drop-random")
    report = pd.read_csv(RunFiles("d/tags").difficulty, dtype={"id": str}).set_index("id")
    solution = pd.read_csv(data / "solution.csv", dtype={"id": str}).set_index("id")["label"]
    wrong = report.loc[train["id"], "p_label_wrong"].to_numpy()
    test = [str(i) for i in pd.read_csv("cache/d/table.csv", dtype={"id": str}).query("fold == -1")["id"]]
    truth = solution.loc[test].to_numpy()
    error = np.load(RunFiles("d/teacher").test).argmax(1) != truth
    tag = report.loc[train["id"], "tag"].to_numpy() == "suspect"

    def single(run: str) -> float:
        return float(np.mean([(np.load(RunFiles(run).fold(k).test).argmax(1) == truth).mean() for k in range(5)]))

    return {
        "AUROC of p_label_wrong": roc_auc_score(flipped, wrong),
        "AUROC of OOF self-confidence": roc_auc_score(flipped, -report.loc[train["id"], "self_confidence"])
        if "self_confidence" in report
        else np.nan,
        "precision at the true count": flipped[np.argsort(-wrong)[:120]].mean(),
        "suspects: precision": flipped[tag].mean() if tag.any() else np.nan,
        "suspects: recall": tag[flipped].mean(),
        "sum of p_label_wrong": wrong.sum(),
        "AUROC of p_error, test errors": roc_auc_score(error, report.loc[test, "p_error"]),
        "test error of the blend": error.mean(),
        "single models, nothing dropped": single("d/teacher"),
        "single models, suspects dropped": single("d/drop-tags"),
        "single models, as many at random": single("d/drop-random"),
        "gain over random": single("d/drop-tags") - single("d/drop-random"),
    }


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    logging.disable(logging.WARNING)
    started, home, found = time.time(), os.getcwd(), []
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                found.append(one_seed(seed))
            finally:
                os.chdir(home)
        print({k: round(float(v), 4) for k, v in found[-1].items()}, file=sys.stderr, flush=True)
    print(f"{seeds} seeds, {(time.time() - started) / 60:.1f} minutes: mean +- se (lowest)")
    for name in found[0]:
        values = np.array([f[name] for f in found])
        print(f"{name:34} {values.mean():9.4f} +- {values.std(ddof=1) / np.sqrt(seeds):.4f} ({values.min():.4f})")


if __name__ == "__main__":
    main()
