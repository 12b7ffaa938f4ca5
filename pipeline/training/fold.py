"""One model of a run: fit it, and predict with it, from shelf to shelf."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.scoring.metrics import Metric
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import Competition, Train
from pipeline.store.errors import UserError, nearest, resolve
from pipeline.store.files import Array, atomic, digest, write_npy
from pipeline.store.receipts import write_receipt
from pipeline.store.table import Table
from pipeline.store.tracking import Tracker
from pipeline.tasks import TASKS, Task
from pipeline.training.augment import augmenter
from pipeline.training.engine import fit
from pipeline.training.images import CHANNELS, cached
from pipeline.training.losses import Objective
from pipeline.training.machine import Machine
from pipeline.training.models import Network, build, outputs_of, to_prediction
from pipeline.training.optim import OPTIMIZERS, SCHEDULES
from pipeline.training.predict import TTA, predict, scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every fold of a run shares."""

    files: RunFiles
    config: Train
    competition: Competition
    table: Table
    metric: Metric
    machine: Machine
    fit_key: str
    predict_key: str

    @property
    def task(self) -> Task:
        """Return the task."""
        return TASKS[self.competition.task]

    @property
    def folds(self) -> list[int]:
        """Return the folds that are scored."""
        return [int(k) for k in np.unique(self.table.folds[self.table.scored])]

    @property
    def head(self) -> str:
        """Return the head that the config asks for."""
        heads = self.task.heads
        head = heads[0] if self.config.model.head == "auto" else self.config.model.head
        if head not in heads:
            raise UserError(
                f"{self.files.config}: model.head {head!r} is not for a {self.task.name} task; {nearest(head, heads)}"
            )
        return head

    @property
    def size(self) -> list[int]:
        """Return height and width."""
        size = self.config.image.size
        return [size, size] if isinstance(size, int) else size

    def images(self, rows: Array) -> tuple[Array, dict[int, str]]:
        """Return decoded images of some rows of the table, and what is wrong with the unreadable ones."""
        table, files = self.table, self.files.competition
        return cached(files, table.paths[rows], table.digests[rows], self.competition.images, self.size)


def check_names(job: Job) -> None:
    """Resolve every name of the config before anything is written or trained."""
    config, y = job.config, job.task.targets(job.table.y[job.table.scored])
    augmenter(config.augment.recipe)
    resolve(OPTIMIZERS, config.optim.name, "optimizer")
    resolve(SCHEDULES, config.optim.schedule, "schedule")
    resolve(TTA, config.predict.tta, "predict.tta")
    if config.predict.tta == "d4" and job.size[0] != job.size[1]:
        raise UserError(f'{job.files.config}: predict.tta = "d4" turns images by 90 degrees: image.size must be square')
    Objective(job.task, job.head, len(job.table.classes), y, **config.loss.model_dump())
    new_network(without_weights(job) if config.model.weights == "pretrained" else job)


def without_weights(job: Job) -> Job:
    """Return the job with an untrained network: to look at it, or to load weights of our own into it."""
    model = job.config.model.model_copy(update={"weights": "none"})
    return replace(job, config=job.config.model_copy(update={"model": model}))


def new_network(job: Job) -> Network:
    """Build the network of a run, on the CPU."""
    model, outputs = job.config.model, outputs_of(job.task, job.head, len(job.table.classes))
    return build(
        model.name,
        weights=model.weights,
        options=dict(model.options),
        channels=CHANNELS[job.competition.images.channels],
        size=job.size,
        outputs=outputs,
        values=outputs if job.task.name == "regression" else 1,
        pool=model.pool,
        dropout=model.dropout,
        normalize=job.config.image.normalize,
    )


def save_weights(path: Path, network: nn.Module, **header: Any) -> None:
    """Write weights as safetensors with a header of text."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic(path) as temporary:
        # One entry: safetensors writes several in random order, and the same weights would be other bytes.
        save_file(tensors, temporary, {"podium": json.dumps(header, sort_keys=True)})


def header_of(path: Path) -> dict[str, Any]:
    """Return the header of a weights file, {} where there is none."""
    if not path.exists():
        return {}
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        ours = json.loads(handle.read(length)).get("__metadata__", {}).get("podium", "{}")
    found: dict[str, Any] = json.loads(ours)
    return found


def is_fitted(job: Job, fold: int) -> bool:
    """Say whether the weights of a fold (or, for select = "best", those of every epoch) are there."""
    files = job.files.fold(fold)
    if header_of(files.model).get("key") == job.fit_key:
        return True
    epochs = [header_of(files.epoch(epoch)) for epoch in range(job.config.epochs)]
    return job.config.select == "best" and all(header.get("key") == job.fit_key for header in epochs)


def fit_fold(job: Job, fold: int, tracker: Tracker) -> None:
    """Train the model of a fold on all other folds and write its weights (or every epoch's)."""
    config, table, files = job.config, job.table, job.files.fold(fold)
    started = time.monotonic()
    images, bad = job.images(table.scored)
    if bad and config.on_bad_image == "error":
        row, why = next(iter(bad.items()))
        raise UserError(
            f"{why} (id {str(table.ids[table.scored][row])!r}; {len(bad)} in all): mend it, drop its row, "
            f'or set on_bad_image = "skip-train"'
        )
    folds, y = table.folds[table.scored], job.task.targets(table.y[table.scored])
    rows, held_out = training_rows(folds, fold, bad), np.flatnonzero(folds == fold)
    seed = int(digest(str(config.seed), str(fold))[:8], 16)
    torch.manual_seed(seed)
    network = new_network(job)
    objective = Objective(job.task, job.head, len(table.classes), y[rows], **config.loss.model_dump())
    if job.head != "classification":
        network.center, network.spread = objective.center, objective.spread
    targets = objective.encode(y)
    cuts = job.task.default_cuts(len(table.classes))

    def evaluate(current: nn.Module) -> dict[str, float]:
        raw = scores(current, images, held_out, machine=job.machine, batch_size=config.predict.batch_size)
        prediction = to_prediction(job.task, job.head, raw, objective.center, objective.spread).numpy()
        loss = objective.loss(raw, targets[held_out]).mean().item()
        return {"valid_loss": loss, f"valid_{job.metric.name}": job.metric(job.task, y[held_out], prediction, cuts)}

    def keep(entry: dict[str, Any], current: nn.Module) -> None:
        score = entry[f"valid_{job.metric.name}"]
        save_weights(files.epoch(entry["epoch"]), current, key=job.fit_key, epoch=entry["epoch"], curve=[score])

    fitted = fit(
        network, objective, images=images, targets=targets, rows=rows, names=table.ids[table.scored],
        augment=augmenter(config.augment.recipe), machine=job.machine, evaluate=evaluate, record=tracker.log,
        keep=keep if config.select == "best" else None, checkpoint=files.last, key=job.fit_key, log_file=files.log,
        title=f"{job.files.run} fold {fold}", seed=seed, epochs=config.epochs, batch_size=config.batch_size,
        mixup=config.augment.mixup, cutmix=config.augment.cutmix, optimizer=config.optim.name, lr=config.optim.lr,
        weight_decay=config.optim.weight_decay, momentum=config.optim.momentum, schedule=config.optim.schedule,
        warmup=config.optim.warmup, clip=config.optim.clip, accumulate=config.optim.accumulate,
        ema=config.average.ema, swa=config.average.swa,
    )  # fmt: skip
    if config.select == "last":
        save_weights(files.model, fitted, key=job.fit_key, epoch=config.epochs - 1)
    files.last.unlink(missing_ok=True)
    log.info("%s fold %d: trained on %d rows in %.1f s", job.files.run, fold, len(rows), time.monotonic() - started)


def training_rows(folds: Array, fold: int, bad: dict[int, str]) -> Array:
    """Return the positions that a fold's model trains on: all other folds, but for unreadable images."""
    usable = ~np.isin(np.arange(len(folds)), list(bad))
    return np.asarray(np.flatnonzero((folds != fold) & usable))


def curve(job: Job, fold: int) -> list[float]:
    """Return the score after each epoch, as the headers of the weights tell it."""
    files = job.files.fold(fold)
    final = header_of(files.model)
    kept = [final] if final.get("key") == job.fit_key else [header_of(files.epoch(e)) for e in range(job.config.epochs)]
    return [score for header in kept for score in header["curve"]]


def choose_epochs(job: Job) -> None:
    """Give each fold the epoch that is best on the mean curve of the *other* folds (level `crossfit`)."""
    curves = {k: curve(job, k) for k in job.folds}
    for k in job.folds:
        files = job.files.fold(k)
        if header_of(files.model).get("key") != job.fit_key:
            others = np.mean([curves[j] for j in job.folds if j != k], axis=0)
            best = int(np.argmax(np.nan_to_num(job.metric.gain(others, 0.0), nan=-np.inf)))
            network = new_network(without_weights(job))
            network.load_state_dict(load_file(files.epoch(best)))
            save_weights(files.model, network, key=job.fit_key, epoch=best, curve=curves[k])
    for k in job.folds:
        for epoch in range(job.config.epochs):
            job.files.fold(k).epoch(epoch).unlink(missing_ok=True)


def predict_fold(job: Job, fold: int, tracker: Tracker, level: str) -> dict[str, Any]:
    """Predict the held-out rows and the test rows with the model of a fold; the receipt is written last."""
    table, files, config = job.table, job.files.fold(fold), job.config
    started = time.monotonic()
    network = new_network(without_weights(job))
    network.load_state_dict(load_file(files.model))
    scored, test = table.scored, table.test
    held_out = np.flatnonzero(table.folds[scored] == fold)
    look = partial(
        predict,
        network,
        job.task,
        job.head,
        machine=job.machine,
        tta=config.predict.tta,
        batch_size=config.predict.batch_size,
    )
    images, bad = job.images(scored)
    oof = look(images, held_out)
    test_images, unreadable = job.images(test)
    if unreadable:
        raise UserError(f"{next(iter(unreadable.values()))}: every test row needs a prediction; mend the file")
    write_npy(files.oof, oof)
    write_npy(files.test, look(test_images, np.arange(len(test))))
    y = job.task.targets(table.y[scored])[held_out]
    score = job.metric(job.task, y, oof, job.task.default_cuts(len(table.classes)))
    trained = table.ids[scored][training_rows(table.folds[scored], fold, bad)]
    facts: dict[str, Any] = {
        "run": job.files.run,
        "fit_hash": job.fit_key,
        "predict_hash": job.predict_key,
        "fold": fold,
        "level": level,
        "trained_on": {"rows": len(trained), "ids": digest(*trained)},
        "epoch": header_of(files.model)["epoch"],
        "seed": config.seed,
        "batch_size": config.batch_size,
        "machine": asdict(job.machine),
        "bad_images": len(bad),
        "predict_seconds": round(time.monotonic() - started, 3),
        "metrics": {job.metric.name: score},
    }
    outputs = [files.model, files.oof, files.test]
    write_receipt(files.receipt, stage="train", key=job.predict_key, outputs=outputs, **facts)
    tracker.summary({f"oof_{job.metric.name}": score, "rows": len(held_out)})
    columns = {f"p{c}": oof[:, c] for c in range(oof.shape[1])}
    tracker.table("oof", {"id": table.ids[scored][held_out], **columns})
    tracker.artifact(f"{job.files.run}-fold{fold}", "model", files.model)
    return facts
