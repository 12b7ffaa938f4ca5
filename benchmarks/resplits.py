"""Does the forecast of `make lb` hold? Re-split a real set many times; permute its labels many times.

    python benchmarks/resplits.py <folder of seedlings> [splits=20] [rows=1200] [test=600] [permuted=200]

Each split draws train and test rows anew (30 % of the test rows are public), trains timm's `test_resnet` at 32 px in
five folds, runs `make lb` and looks where the public and private scores fall. A rule is then sought for permuted labels
with the predictions of the first split: one that is adopted is a false one.
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
metric = "{metric}"
id = "file"
target = "species"
[images]
pattern = "{{split}}_images/{{id}}"
[folds]
seed = {seed}
"""
RUN = """epochs = 10
batch_size = 64
model.name = "test_resnet"
image.size = 32
augment.recipe = "medium"
optim.lr = 5e-3
"""


def stage(name: str, run: str) -> None:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def resplit(source: Path, seed: int, rows: int, test: int, metric: str) -> dict[str, float]:
    """Run the chain on one split in the working folder; return what was foretold and what came."""
    both = [pd.read_csv(source / f"{name}.csv") for name in ("train", "solution")]
    where = pd.concat(
        [
            frame.assign(split=split)[["file", "species", "split"]]
            for frame, split in zip(both, ("train", "test"), strict=True)
        ]
    )
    drawn = where.sample(rows + test, random_state=seed).reset_index(drop=True)
    data = Path("data/s")
    for name, part in (("train", drawn[:rows]), ("test", drawn[rows:])):
        (data / f"{name}_images").mkdir(parents=True)
        for file, split in zip(part["file"], part["split"], strict=True):
            (data / f"{name}_images" / file).symlink_to(source / f"{split}_images" / file)
    drawn[:rows][["file", "species"]].to_csv(data / "train.csv", index=False)
    hidden = drawn[rows:][["file", "species"]]
    hidden.assign(species=hidden["species"].iloc[0]).to_csv(data / "sample_submission.csv", index=False)
    usage = np.where(np.random.default_rng(seed).permutation(test) < 0.3 * test, "Public", "Private")
    hidden.assign(Usage=usage).to_csv(data / "solution.csv", index=False)
    configs = Path("configs/s")
    configs.mkdir(parents=True)
    (configs / "competition.toml").write_text(CONTRACT.format(metric=metric, seed=seed))
    (configs / "a.toml").write_text(RUN)
    (configs / "lb.toml").write_text('stage = "lb"\nrun = "a"\n')
    for name, run in (("data", "s"), ("folds", "s"), ("train", "s/a"), ("lb", "s/lb"), ("submit", "s/lb")):
        stage(name, run)
    report = read_json(RunFiles("s/lb").postprocess)
    return {
        **report,
        "sent": read_json(RunFiles("s/lb").submission_receipt),
        "cv": read_json(RunFiles("s/lb").receipt)["metrics"],
    }


def false_rules(permuted: int) -> int:
    """Return how many of some label permutations lead to an adopted rule."""
    adopted = 0
    receipt, solution = RunFiles("s/lb").receipt, pd.read_csv("data/s/train.csv")
    table = pd.read_csv("cache/s/table.csv", dtype={"id": str})
    for draw in range(permuted):
        order = np.random.default_rng([draw, 5]).permutation(len(solution))
        shuffled = table.copy()
        at = np.flatnonzero(shuffled["fold"] >= 0)
        shuffled.loc[at, "y0"] = shuffled.loc[at[order], "y0"].to_numpy()
        shuffled.to_csv("cache/s/table.csv", index=False)
        resign()
        receipt.unlink()
        stage("lb", "s/lb")
        adopted += read_json(RunFiles("s/lb").postprocess)["adopted"] is not None
        table.to_csv("cache/s/table.csv", index=False)
    return adopted


def resign() -> None:
    """Make the receipt of the table speak of the permuted labels."""
    from pipeline.store.files import digest_file, write_json

    path = Path("cache/s/table.json")
    known = read_json(path)
    known["outputs"] = {"cache/s/table.csv": digest_file(Path("cache/s/table.csv"))}
    write_json(path, known)


def main() -> None:
    source = Path(sys.argv[1]).absolute()
    splits, rows, test, permuted = (int(v) for v in [*sys.argv[2:], *["20", "1200", "600", "200"][len(sys.argv) - 2 :]])
    logging.disable(logging.WARNING)
    started, home, found, adopted = time.time(), os.getcwd(), [], None
    for seed in range(splits):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                found.append(resplit(source, seed, rows, test, "accuracy"))
                if seed == 0 and permuted:
                    adopted = false_rules(permuted)
            finally:
                os.chdir(home)
        ends, sent = found[-1]["forecast"], found[-1]["sent"]
        print(
            f"split {seed}: cv {found[-1]['cv']['score']:.4f}, public {ends['public']['90']} {sent['public']:.4f}, private {ends['private']['90']} {sent['private']:.4f}, adopted {found[-1]['adopted']}",
            file=sys.stderr,
            flush=True,
        )
    print(f"{splits} splits of {rows} + {test} rows, {(time.time() - started) / 60:.1f} minutes")
    for name in ("public", "private"):
        for level in ("50", "80", "90"):
            ends = np.array([f["forecast"][name][level] for f in found], float)
            score = np.array([f["sent"][name] for f in found])
            inside = ((score >= ends[:, 0]) & (score <= ends[:, 1])).mean()
            print(
                f"{name:8} {level} % interval holds {inside:.2f} of the scores, mean width {(ends[:, 1] - ends[:, 0]).mean():.4f}"
            )
    error = np.array([f["sent"]["private"] - f["forecast"]["expected"] for f in found])
    plain = np.array([f["sent"]["private"] - f["cv"]["score"] for f in found])
    print(
        f"private - foretold: mean {error.mean():+.4f}, sd {error.std(ddof=1):.4f}; private - cv: mean {plain.mean():+.4f}, sd {plain.std(ddof=1):.4f}"
    )
    print(
        f"adopted a rule: {sum(f['adopted'] is not None for f in found)} of {splits} real, {adopted} of {permuted} permuted"
    )


if __name__ == "__main__":
    main()
