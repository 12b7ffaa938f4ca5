"""Predictions, embeddings and training dynamics of models that were never trained, and shelves made of them."""

from dataclasses import dataclass, field

import numpy as np

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import write_npy
from pipeline.store.receipts import write_receipt
from pipeline.store.runs import load_run
from pipeline.store.table import half_of
from pipeline.tasks import TASKS

METRIC = {
    "binary": "accuracy",
    "multiclass": "accuracy",
    "multilabel": "f1_macro",
    "ordinal": "mae",
    "regression": "rmse",
}


@dataclass
class Invented:
    """What K models say of N scored and T test rows whose truth is `clean` and whose labels are `y`."""

    problem: Problem
    clean: np.ndarray
    test_clean: np.ndarray
    hardness: np.ndarray
    train: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    epochs: dict = field(default_factory=dict)
    embeddings: dict = field(default_factory=dict)
    pairs: dict = field(default_factory=dict)

    @property
    def oof(self):
        return np.choose(self.problem.folds[:, None], [self.train[k] for k in sorted(self.train)])


def say(task, classes, clean, hardness, rng):
    """A prediction: the truth, the weaker the harder the row."""
    strength = 6 * (1 - hardness)
    if task == "multiclass":
        score = strength[:, None] * np.eye(classes)[clean] + rng.normal(0, 1, (len(clean), classes))
        odds = np.exp(score - score.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)
    wide = clean.reshape(len(clean), -1).astype(float)
    noise = rng.normal(0, 1, wide.shape)
    if task in ("binary", "multilabel"):
        return 1 / (1 + np.exp(-(strength[:, None] * (2 * wide - 1) + noise)))
    return wide + hardness[:, None] * noise * (0.7 if task == "ordinal" else 1)


def invent(task, y, clean, test_clean, folds, classes, seed=0, pairs=False, group=None):
    """K models of one run, of rows whose hardness is random; they half learn the labels of rows they train on."""
    rng = np.random.default_rng(seed)
    n, everyone = len(y), np.concatenate([clean, test_clean])
    hardness = rng.random(len(everyone)) ** 2
    problem = Problem(TASKS[task], METRICS[METRIC[task]], classes, y, folds, group)
    made = Invented(problem, clean, test_clean, hardness)
    width = TASKS[task].width(classes)
    truth = everyone.reshape(len(everyone), -1).astype(float)
    given = np.eye(classes)[y] if task == "multiclass" else y.reshape(n, -1)
    for k in np.unique(folds).tolist():
        said = say(task, classes, everyone, hardness, rng).astype(np.float32)
        made.train[k], made.test[k] = said[:n], said[n:]
        mean = 0.9 * said[:n] + 0.1 * given
        true = (1 - np.abs(mean - given).mean(1)).clip(0, 1)
        table = np.column_stack([mean, rng.random(n) * 0.2, 2 * true - 1, rng.integers(0, 3, n)])
        made.epochs[k] = np.where((folds != k)[:, None], table, np.nan).astype(np.float32)
        rotation = rng.normal(0, 1, (truth.shape[1] + 3, 8))
        noisy = np.column_stack([truth, rng.normal(0, 0.3, (len(truth), 3))]) + rng.normal(0, 0.1, (len(truth), 1))
        made.embeddings[k] = (np.cos(noisy @ rotation) + 1).astype(np.float16)
        for j in range(k) if pairs else ():
            told = say(task, classes, everyone, hardness, rng).astype(np.float32)
            made.pairs[j, k] = told[:n], told[n:]
    assert made.train[0].shape[1] == width
    return made


def shelve(run, made, table, facts, halves=False, indicators=None, level="blind"):
    """Write the shelf of a run that was never trained."""
    files, n, folds = RunFiles(run), len(made.clean), sorted(made.train)
    oof = made.oof
    outputs = [files.oof, files.test]
    write_npy(files.oof, oof)
    write_npy(files.test, np.mean([made.test[k] for k in folds], 0, dtype=np.float64).astype(np.float32))
    ids = np.concatenate([table.ids[table.scored], table.ids[table.test]])
    for k in folds:
        shelf, mine = files.fold(k), made.problem.folds == k
        spread = np.where(np.r_[mine, np.ones(len(ids) - n, bool)], made.hardness / 10, np.nan).astype(np.float32)
        for path, array in ((shelf.oof, oof[mine]), (shelf.test, made.test[k]), (shelf.train, made.train[k])):
            write_npy(path, array)
        write_npy(shelf.spread, spread)
        for h in (0, 1) if halves else (None,):
            model = shelf if h is None else shelf.half(h)
            # Embeddings of rows that this half does not answer for say something else.
            garbled = np.zeros(len(ids), bool) if h is None else half_of(ids) == h
            mine_too = garbled & np.r_[mine, np.ones(len(ids) - n, bool)]
            write_npy(model.embeddings, np.where(mine_too[:, None], np.float16(9), made.embeddings[k]))
            write_npy(model.epochs, made.epochs[k])
            extra = {} if indicators is None else {"indicators": {"threshold": indicators}}
            if h is not None:
                write_receipt(model.receipt, stage="train", key="k", outputs=[model.embeddings, model.epochs], **extra)
        extra |= {"halves": [0, 1]} if halves else {}
        write_receipt(shelf.receipt, stage="train", key="k", outputs=[shelf.oof, shelf.test, shelf.spread], **extra)
        outputs += [shelf.receipt, shelf.test]
    for (j, k), (train, test) in made.pairs.items():
        write_npy(files.pair(j, k).train, train)
        write_npy(files.pair(j, k).test, test)
    metrics = {"metric": made.problem.metric.name, "score": 0.5, "se": 0.1, "n": n, "fold_sd": 0.1}
    write_receipt(
        files.receipt, stage="train", key="k", outputs=outputs, run=run, config=load_run(run).model_dump(),
        fold_map=table.fold_map(), rows=table.content(table.scored), test=facts["test"], classes=table.classes,
        folds=folds, parents=[], level={str(k): level for k in folds}, decision=None, metrics=metrics,
    )  # fmt: skip
