"""Weights on the shelf: their header says what they are of; the choice of an epoch; where to start from."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.nets.mask_nets import MaskNetwork
from pipeline.nets.models import Network
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import atomic, read_json
from pipeline.store.roles import adapted_to_folds
from pipeline.training.job import Job, any_network, without_weights
from pipeline.training.which import Which

log = logging.getLogger(__name__)
# The parts of a network that answer what a competition asks, or read columns of its own.
ASKED = ("head", "auxiliary", "beside", "presence", "sizes", "deep")


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


def fitted_network(job: Job, path: Path) -> Network:
    """Return the network of a run with the weights of a file."""
    network = fitted(job, path)
    assert isinstance(network, Network)
    return network


def fitted(job: Job, path: Path) -> Network | MaskNetwork:
    """Return the same of a run with masks or without."""
    network = any_network(without_weights(job))
    network.load_state_dict(load_file(path))
    return network


def is_fitted(job: Job, which: Which) -> bool:
    """Say whether the weights of a model (or, for select = "best", those of every epoch) are there.

    So must be what cannot be had from them again: the rows that were trained on, and what was seen of them.
    """
    files = which.files(job.files)
    if not (files.rows.exists() and files.epochs.exists()):
        return False
    if header_of(files.model).get("key") == job.fit_key:
        return True
    epochs = [header_of(files.epoch(epoch)) for epoch in range(job.config.epochs)]
    return job.config.select == "best" and all(header.get("key") == job.fit_key for header in epochs)


def curve(job: Job, which: Which) -> list[float]:
    """Return the score (or loss) after each epoch, as the headers of the weights tell it."""
    files = which.files(job.files)
    final = header_of(files.model)
    kept = [final] if final.get("key") == job.fit_key else [header_of(files.epoch(e)) for e in range(job.config.epochs)]
    return [score for header in kept for score in header["curve"]]


def choose_epochs(job: Job) -> None:
    """Give each model the epoch that is best on the mean curve of the *other* folds (level `crossfit`)."""
    curves = {which: curve(job, which) for which in job.models}
    for which in job.models:
        files = which.files(job.files)
        if header_of(files.model).get("key") != job.fit_key:
            # Of its own repeat: elsewhere every model is scored on rows of this fold too.
            other = [w for w in curves if w.repeat == which.repeat and w.held_out != which.held_out]
            others = np.mean([curves[w] for w in other], axis=0)
            worth = -others if job.config.select_by == "loss" else job.metric.gain(others, 0.0)
            best = int(np.argmax(np.nan_to_num(worth, nan=-np.inf)))
            save_weights(files.model, fitted(job, files.epoch(best)), key=job.fit_key, epoch=best, curve=curves[which])
    for which in job.models:
        for epoch in range(job.config.epochs):
            which.files(job.files).epoch(epoch).unlink(missing_ok=True)


def start_of(job: Job, which: Which) -> Path:
    """Return the weights of the same model of the run that `init` names: of the same half, where it has halves.

    A run of another competition may have fewer folds and repeats: none of its models saw an image that is scored here.
    What is to be adapted to test starts from the model that was, where the run has such.
    """
    assert job.config.init is not None
    files = RunFiles(job.config.init)
    if which.target == "test" and not adapted_to_folds(read_json(files.receipt)):
        which = replace(which, target="fold")
    there = files.fold(which.held_out[0], which.repeat).folder.exists()
    if not there and files.competition != job.files.competition:
        folds = read_json(files.receipt)["folds"]
        which = replace(which, repeat=0, held_out=(folds[which.held_out[0] % len(folds)],))
    whole = replace(which, half=None).files(files)
    known = read_json(whole.receipt) if whole.receipt.exists() else {}
    path = which.files(files).model if "halves" in known else whole.model
    if not path.exists():
        raise UserError(f"init = {job.config.init!r} has no {path}: it needs a model for {which.title}")
    return path


def asks_the_same(job: Job) -> bool:
    """Say whether the run that `init` names was asked the same: of another competition only by task, names, columns."""
    assert job.config.init is not None
    files = RunFiles(job.config.init)
    if files.competition == job.files.competition:
        return True
    theirs, ours = load_competition(files.competition.name), job.competition
    same = all(getattr(theirs, key) == getattr(ours, key) for key in ("task", "targets", "metadata", "auxiliary"))
    return same and read_json(files.receipt)["classes"] == job.table.classes


def start_from(job: Job, which: Which, network: nn.Module) -> None:
    """Load the weights of the model that `init` names; a head of another shape, or of other classes, starts anew."""
    path = start_of(job, which)
    state, own = load_file(path), network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if any(name.startswith("backbone.") and name not in fitting for name in (*own, *state)):
        ours = f"{job.config.model.name!r} with the model.options of {job.files.config}"
        raise UserError(f"init = {job.config.init!r}: {path} is of another network than {ours}")
    # How values and pixels are standardised belongs to this model's own training rows.
    skipped = ["center", "spread", "mean", "std", "beside.center", "beside.spread"]
    if not asks_the_same(job):
        skipped += [name for name in fitting if name.split(".")[0] in ASKED]
        log.info("%s %s: %s was asked for other classes: the head starts anew", job.files.run, which.title, path)
    network.load_state_dict({n: v for n, v in fitting.items() if n not in skipped}, strict=False)
