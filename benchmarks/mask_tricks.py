"""Does a trick of segmentation pay? Each against its base on the same folds and seeds, out of fold, paired by group.

    python benchmarks/mask_tricks.py nuclei <folder of nuclei-tiles> [seeds=3]    Lovasz after BCE, a distance map
    python benchmarks/mask_tricks.py classes [seeds=3]                            class-equal sampling, drawn cells

The nuclei are trained on two folds (half the rows each), 12 epochs of a small U-Net at 96 px. `classes` are touching
cells of three kinds, one of which is in an eighth of the tiles. Scores are told with the masks as they come (p > .5) and
with the threshold, area and gate chosen on the other fold.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ |= {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
os.environ.setdefault("PODIUM_THREADS", "1")

import cv2
import numpy as np
import pandas as pd

from pipeline.competitions.blobs import SIDE, draw_field
from pipeline.scoring.bootstrap import replicate
from pipeline.scoring.mask_shelf import Scene, choose_masks
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import load_competition
from pipeline.store.files import read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.tasks import task_of

NUCLEI = """task = "segmentation"
metric = "tgs_precision"
id = "id"
target = "rle_mask"
images.pattern = "{split}/images/{id}.png"
group.table = "tiles.csv"
group.column = "source_image"
folds.n = 2
"""
CLASSES = """task = "segmentation"
metric = "mean_iou"
id = "id"
classes = ["ground", "large", "small", "bright"]
images = { pattern = "{split}/{id}.png", channels = "grey" }
masks = { pattern = "masks/{id}.png", values = [0, 1, 2, 3], exclusive = true }
group.table = "tiles.csv"
group.column = "field"
folds.n = 2
"""
RUN = """stage = "train"
seed = {seed}
epochs = {epochs}
batch_size = 16
model.name = "small_unet"
model.options = {{ widths = [8, 16, 32, 64] }}
image.size = {size}
augment.recipe = "medium"
optim = {{ lr = 5e-3, schedule = "onecycle", warmup = 0.25 }}
average.ema = 0.98
{trick}
"""
LOVASZ = "loss.then = { at = 0.5, terms = { bce = 0.2, lovasz = 0.8 } }\nloss.hinge = 'elu'\nloss.symmetric = true"
TRICKS = {
    "nuclei": {
        "BCE": "loss.terms = { bce = 1.0 }",
        "BCE, then Lovasz": f"loss.terms = {{ bce = 1.0 }}\n{LOVASZ}",
        "BCE and distance": "loss.terms = { bce = 1.0 }\nloss.distance = 1.0",
    },
    "classes": {"rows as they come": "", "class-equal": "sampling.equal = true"},
}


def stage(name: str, run: str) -> None:
    importlib.import_module(f"pipeline.stages.{name}").run(argparse.Namespace(run=run, competition=run))


def draw_classes(folder: Path, fields: int = 24) -> None:
    """Write tiles whose cells are large (common), small, or bright (rare), and the test tiles that a contract needs."""
    rng, rows, tiles = np.random.default_rng(0), [], []
    (folder / "masks").mkdir(parents=True)
    for split in ("train", "test"):
        (folder / split).mkdir()
    for field in range(fields + 1):
        image, drawn = draw_field(np.random.default_rng([0, field]))
        numbers, areas = np.unique(drawn[drawn > 0], return_counts=True)
        kinds = np.zeros(int(drawn.max()) + 1, np.uint8)
        kinds[numbers] = np.where(areas > np.quantile(areas, 0.4), 1, 2)
        rare = rng.choice(numbers)
        kinds[rare] = 3
        image = np.where(drawn == rare, np.minimum(image.astype(int) + 40, 255), image).astype(np.uint8)
        for at in range(9):
            top, left = (SIDE * place for place in divmod(at, 3))
            cut = np.s_[top : top + SIDE, left : left + SIDE]
            i, split = f"t{field:02d}{at}", "train" if field < fields else "test"
            cv2.imwrite(str(folder / split / f"{i}.png"), image[cut])
            if field < fields:
                cv2.imwrite(str(folder / "masks" / f"{i}.png"), kinds[drawn][cut])
            tiles.append({"id": i, "field": field})
            rows.append({"id": i, "split": split})
    frame = pd.DataFrame(rows)
    frame[frame["split"] == "train"][["id"]].to_csv(folder / "train.csv", index=False)
    sample = frame[frame["split"] == "test"].assign(mask="1 1")
    sample[["id", "mask"]].to_csv(folder / "sample_submission.csv", index=False)
    pd.DataFrame(tiles).to_csv(folder / "tiles.csv", index=False)


def measured(run: RunFiles) -> tuple[object, np.ndarray, np.ndarray]:
    """Return the problem and the statistics of the masks as they come and with cross-fitted settings."""
    files, competition = run.competition, load_competition(run.competition.name)
    facts = read_table_facts(files)
    table, metric = read_table(files, facts), metric_of(competition, files)
    scene = Scene.of(
        run, competition, table, task_of(competition, facts["classes"]), metric, read_json(run.receipt)["maps"]
    )
    choice, _ = choose_masks(scene, scene.maps(run.oof, table.scored), "optimal")
    return scene.problem, choice.fixed, choice.optimal


def tell(problem, base: list[np.ndarray], new: list[np.ndarray]) -> str:
    """Return the mean gain over seeds, its interval over resampled groups and its spread over seeds."""
    scorers = [partial(problem.judge, stats) for stats in (*new, *base)]
    boot = replicate(scorers, len(problem.y), problem.group)
    gains = np.array([problem.judge(b) - problem.judge(a) for a, b in zip(base, new, strict=True)])
    low, high = np.quantile(boot[:, : len(new)].mean(1) - boot[:, len(new) :].mean(1), [0.025, 0.975])
    return f"{gains.mean():+.4f} [{low:+.4f}, {high:+.4f}], sd over seeds {gains.std(ddof=1) if len(gains) > 1 else np.nan:.4f}"


def main() -> None:
    which, rest = sys.argv[1], sys.argv[2:]
    source = Path(rest.pop(0)).absolute() if which == "nuclei" else None
    seeds, size, epochs = int(rest[0]) if rest else 3, *((96, 12) if which == "nuclei" else (64, 24))
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("configs/s").mkdir(parents=True)
        Path("data").mkdir()
        if source:
            Path("data/s").symlink_to(source)
        else:
            draw_classes(Path("data/s"))
        Path("configs/s/competition.toml").write_text(NUCLEI if source else CLASSES)
        stage("data", "s")
        stage("folds", "s")
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in TRICKS[which]}
        for seed in range(seeds):
            for i, (name, trick) in enumerate(TRICKS[which].items()):
                started, run = time.process_time(), RunFiles(f"s/r{seed}{i}")
                run.config.write_text(RUN.format(seed=seed, epochs=epochs, size=size, trick=trick))
                stage("train", run.run)
                problem, *stats = measured(run)
                found[name].append(stats)
                scores = ", ".join(f"{problem.judge(s):.4f}" for s in stats)
                print(f"seed {seed}, {name}: {scores} ({time.process_time() - started:.0f} CPU s)", flush=True)
        base, *tricks = found
        for i, how in enumerate(("p > .5", "cross-fitted settings")):
            mean = np.mean([problem.judge(stats[i]) for stats in found[base]])
            print(f"{how}: {base} {mean:.4f}")
            for name in tricks:
                print(f"  {name}: {tell(problem, [s[i] for s in found[base]], [s[i] for s in found[name]])}")


if __name__ == "__main__":
    main()
