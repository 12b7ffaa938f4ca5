"""Invented competitions of any size, in the working folder, with the shelves of two runs that were never trained."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.images import cache
from pipeline.masks.maps import SHELF, pack, write_flat, write_mean
from pipeline.masks.rle import encode
from pipeline.scoring.mask_shelf import Scene, put_together, score_maps
from pipeline.scoring.metrics import METRICS
from pipeline.store.artifacts import CompetitionFiles, FoldFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.files import read_npy, write_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.receipts import write_receipt
from pipeline.store.runs import load_run
from pipeline.store.table import Table, read_table
from pipeline.tasks import TASKS

COMP, RUNS, FOLDS, GRADES, WIDTH, SIDE = "grow", ("one", "two"), 5, 5, 16, 8
CONFIGS = {
    "one": f'stage = "train"\n[image]\nsize = {SIDE}\n',
    "two": f'stage = "train"\nseed = 1\n[image]\nsize = {SIDE}\n',
    "ensemble": 'stage = "ensemble"\nmembers = ["one", "two"]\n',
    "pseudo": 'stage = "pseudo"\nrun = "one"\nquota = 0.9\n',
    "tag": 'stage = "tag"\nrun = "one"\n',
    "lb": 'stage = "lb"\nrun = "one"\n',
}
ROWS = 'task = "ordinal"\nmetric = "quadratic_kappa"\nid = "id"\ntarget = "grade"\n'
IMAGES = 'task = "segmentation"\nmetric = "tgs_precision"\nid = "id"\ntarget = "rle"\n'


def configure(contract: str) -> Path:
    """Write the contract and a config a stage; return the folder of raw data."""
    folder, data = Path("configs") / COMP, Path("data") / COMP
    folder.mkdir(parents=True)
    more = f'[images]\npattern = "{{split}}/{{id}}.png"\nchannels = "grey"\n[folds]\nn = {FOLDS}\n'
    (folder / "competition.toml").write_text(contract + more)
    for name, text in CONFIGS.items():
        (folder / f"{name}.toml").write_text(text)
    for split in ("train", "test"):
        (data / split).mkdir(parents=True)
    return data


def tables(data: Path, ids: list[str], target: str, cells: list, n: int) -> None:
    """Write the tables of a competition whose first `n` rows are labelled."""
    frame = pd.DataFrame({"id": ids, target: cells})
    frame[:n].to_csv(data / "train.csv", index=False)
    frame[n:].assign(**{target: cells[0]}).to_csv(data / "sample_submission.csv", index=False)
    usage = np.where(np.arange(len(ids) - n) % 3 == 0, "Public", "Private")
    frame[n:].assign(Usage=usage).to_csv(data / "solution.csv", index=False)


def invent_rows(n: int) -> None:
    """Write `n` labelled rows and a quarter as many test rows; of an image nothing counts here but its bytes."""
    data, rng = configure(ROWS), np.random.default_rng(0)
    ids = [f"i{row:07d}" for row in range(n + n // 4)]
    tables(data, ids, "grade", rng.choice(GRADES, len(ids), p=[0.5, 0.1, 0.2, 0.1, 0.1]).tolist(), n)
    for row, name in enumerate(ids):
        with open(data / ("train" if row < n else "test") / f"{name}.png", "w") as handle:
            handle.write(name)


def shelve(files: RunFiles, table: Table, **facts) -> None:
    """Write the receipt of a run that was never trained."""
    known, run = read_table_facts(CompetitionFiles(COMP)), files.run
    models = [files.fold(k) for k in range(FOLDS)]
    outputs = [files.oof, files.test, *(path for model in models for path in (model.receipt, model.test))]
    metric = load_competition(COMP).metric
    metrics = {"metric": metric, "score": 0.5, "se": 0.1, "n": len(table.scored), "fold_sd": 0.1}
    write_receipt(
        files.receipt, stage="train", key="k", outputs=outputs, run=run, config=load_run(run).model_dump(),
        fold_map=table.fold_map(), rows=known["scored"], test=known["test"], classes=table.classes,
        folds=list(range(FOLDS)), repeats=1, parents=[], level={str(k): "blind" for k in range(FOLDS)},
        metrics=metrics, **facts,
    )  # fmt: skip


def seen(rows: np.ndarray) -> np.ndarray:
    """Return pictures (N H W 1) of rows, one drawn from each number."""
    grid = np.arange(SIDE * SIDE, dtype=np.uint64).reshape(SIDE, SIDE)
    return ((rows[:, None, None].astype(np.uint64) * 2654435761 + grid * 40503) >> 7).astype(np.uint8)[..., None]


def lay_images(table: Table) -> None:
    """Put decoded images of all rows into the cache, so that no file is read."""
    competition, files = load_competition(COMP), CompetitionFiles(COMP)
    numbers = {path: row for row, path in enumerate(table.paths.tolist())}
    cache.load = lambda data, path, *rest: seen(np.array([numbers[path]]))[0]
    for rows in (table.scored, table.test):
        cache.cached(files, table.paths[rows], table.digests[rows], competition.images, [SIDE, SIDE])


def lay_rows() -> None:
    """Put what two runs would say of every row on their shelves."""
    files = CompetitionFiles(COMP)
    table = read_table(files, read_table_facts(files))
    lay_images(table)
    n, rng = len(table.scored), np.random.default_rng(1)
    everyone, folds = n + len(table.test), table.folds[table.scored]
    truth = np.r_[table.y[table.scored, 0], rng.choice(GRADES, len(table.test))]
    hard, cuts = rng.random(everyone), TASKS["ordinal"].default_cuts(GRADES)
    decision = {"method": "fixed", "cuts": cuts, "by_fold": {str(k): cuts for k in range(FOLDS)}, "level": "crossfit"}
    for name in RUNS:
        run, tests = RunFiles(f"{COMP}/{name}"), []
        oof = np.zeros((n, 1), np.float32)
        for k in range(FOLDS):
            said = (truth + (0.3 + hard) * rng.normal(size=everyone)).astype(np.float32)[:, None]
            oof[folds == k] = said[:n][folds == k]
            tests.append(said[n:])
            lay_model(run.fold(k), said, n, folds == k, rng)
        write_npy(run.oof, oof)
        write_npy(run.test, np.mean(tests, 0))
        shelve(run, table, decision=decision)


def lay_model(shelf: FoldFiles, said: np.ndarray, n: int, mine: np.ndarray, rng: np.random.Generator) -> None:
    """Put what a model would say of all rows (N 1), the first `n` of them scored, on its shelf."""
    answers, trained = np.r_[mine, np.ones(len(said) - n, bool)], ~mine
    epochs = np.column_stack([said[:n], rng.random(n), rng.normal(size=n), rng.integers(0, 3, n)]).astype(np.float32)
    for path, array in {
        shelf.oof: said[:n][mine],
        shelf.test: said[n:],
        shelf.train: said[:n],
        shelf.spread: np.where(answers, rng.random(len(said)) / 10, np.nan).astype(np.float32),
        shelf.embeddings: (said + rng.normal(size=(len(said), WIDTH))).astype(np.float16),
        shelf.epochs: np.where(trained[:, None], epochs, np.nan).astype(np.float32),
        shelf.rows: np.flatnonzero(trained).astype(np.int32),
    }.items():
        write_npy(path, array)
    write_receipt(shelf.receipt, stage="train", key="k", outputs=[shelf.oof, shelf.test, shelf.spread])


def invent_images(n: int, side: int = 96) -> None:
    """Write `n` labelled images and a quarter as many test images: bright bodies on a dim ground, some without any."""
    data, rng, cells = configure(IMAGES), np.random.default_rng(0), []
    ids = [f"i{row:05d}" for row in range(n + n // 4)]
    for row, name in enumerate(ids):
        field = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 12)
        mask = (field > field.std()) & bool(rng.random() < 0.7)
        image = 60 * rng.random((side, side)) + 150 * mask
        cv2.imwrite(str(data / ("train" if row < n else "test") / f"{name}.png"), image.astype(np.uint8))
        cells.append(encode(mask))
    tables(data, ids, "rle", cells, n)


def lay_maps() -> None:
    """Put the maps that two runs would say on their shelves."""
    files, competition = CompetitionFiles(COMP), load_competition(COMP)
    table = read_table(files, read_table_facts(files))
    for name in RUNS:
        run, rng = RunFiles(f"{COMP}/{name}"), np.random.default_rng(len(name))
        scene = Scene.of(run, competition, table, TASKS["segmentation"], METRICS[competition.metric], {"extra": 0, "scale": 1.0})  # fmt: skip
        for k in range(FOLDS):
            shelf, mine = run.fold(k), table.scored[table.folds[table.scored] == k]
            for path, rows in ((shelf.oof, mine), (shelf.test, table.test)):
                write_flat(path, (map_of(scene, row, rng) for row in rows.tolist()), scene.layout(rows).total)
            write_receipt(shelf.receipt, stage="train", key="k", outputs=[shelf.oof, shelf.test])
        put_together(run, scene)
        write_mean(run.test, [read_npy(run.fold(k).test) for k in range(FOLDS)])
        decision = score_maps(scene, scene.maps(run.oof, table.scored), "fixed")[1]
        shelve(run, table, decision=decision, maps=scene.shown)


def map_of(scene: Scene, row: int, rng: np.random.Generator) -> np.ndarray:
    """Return the stretch of a row: its mask through noise, where there is one."""
    height, width = scene.table.sizes[row].tolist()
    mask = scene.truth[row][0] if scene.table.answered[row] else np.zeros((height, width))
    field = 2 * mask - 1 + 0.8 * cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 2) * 5
    return pack((1 / (1 + np.exp(-2 * field)))[None], np.ones(1)).astype(SHELF)
