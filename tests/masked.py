"""A small competition of masks, made by hand: ragged images with discs on them, a table of record, a job."""

from pathlib import Path

import cv2
import numpy as np

from pipeline.masks.truth import create, kind_of
from pipeline.nets.machine import Machine
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.files import digest_file
from pipeline.store.runs import load_run
from pipeline.store.table import Table
from pipeline.training.job import Job

CONTRACT = """# Discs.
task = "segmentation"
metric = "{metric}"
id = "id"
target = {target}
classes = {names}
[images]
pattern = "{{split}}/{{id}}.png"
channels = "grey"
[masks]
{masks}
"""
RUN = """# Discs.
stage = "train"
epochs = 2
batch_size = 8
[model]
name = "small_unet"
options = {{ widths = [4, 6, 8] }}
[image]
size = 16
{more}
"""
N, TEST, HELD = 18, 5, 3


def discs(rng, height, width, classes):
    """An image with a disc for each class that is there, and the masks (C h w)."""
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((classes, height, width), bool)
    for c in range(classes):
        if rng.random() < 0.7:
            masks[c] = (y - rng.uniform(3, height - 3)) ** 2 + (x - rng.uniform(3, width - 3)) ** 2 < 9
    grey = 60 + 70 * np.arange(1, classes + 1) @ masks.reshape(classes, -1) + rng.normal(0, 5, height * width)
    return np.clip(grey, 0, 255).astype(np.uint8).reshape(height, width), masks


def masked(more="", classes=1, masks="", metric="dice", ragged=True, folds=3):
    """Write images, contract, run and masks under the present folder; return the job of toy/a."""
    files, rng = CompetitionFiles("toy"), np.random.default_rng(0)
    names = [f"c{c}" for c in range(classes)]
    Path("configs/toy").mkdir(parents=True, exist_ok=True)
    target = '"c0"' if classes == 1 else str(names).replace("'", '"')
    files.config.write_text(
        CONTRACT.format(metric=metric, target=target, masks=masks, names=str(names).replace("'", '"'))
    )
    RunFiles("toy/a").config.write_text(RUN.format(more=more))
    competition = load_competition("toy")
    total, kind = N + TEST + HELD, kind_of(competition.masks)
    sizes = np.array([[16, 16] if not ragged else [16 - i % 4, 12 + i % 5] for i in range(total)], np.int32)
    codes = np.array([i % folds for i in range(N)] + [-1] * TEST + [-2] * HELD)
    known, paths = [], []
    for i, (height, width) in enumerate(sizes):
        image, mask = discs(rng, height, width, classes)
        path = files.data / ("test" if codes[i] == -1 else "train") / f"r{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        known.append(mask)
        paths.append(str(path.relative_to(files.data)))
    files.masks.parent.mkdir(parents=True, exist_ok=True)
    truth = create(files.masks, sizes, codes != -1, classes, kind)
    for i in np.flatnonzero(codes != -1):
        stored = known[i].argmax(0) if kind == "exclusive" else known[i][0] if classes == 1 else known[i]
        truth.raw(i)[...] = stored
    truth.flat.flush()
    y = np.array([truth[i].mean((1, 2)) if codes[i] != -1 else np.zeros(classes) for i in range(total)])
    ids, none = np.array([f"r{i}" for i in range(total)]), np.array([""] * total)
    digests = np.array([digest_file(files.data / path) for path in paths])
    table = Table(ids, codes, none, np.arange(total), np.array(paths), digests, y, names, np.ones(total),
                  np.zeros((total, 0)), None, None, sizes)  # fmt: skip
    return job_of(competition, table)


def job_of(competition, table, name="toy/a"):
    run = RunFiles(name)
    return Job(run, load_run(name), competition, table, metric_of(competition, run.competition),
               Machine("cpu", "fp32", 1), "fit", "predict")  # fmt: skip
