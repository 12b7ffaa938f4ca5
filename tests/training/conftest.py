import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from school import built
from torch import nn

from pipeline.images.augment import augmenter
from pipeline.nets.machine import Machine
from pipeline.nets.objective import Objective
from pipeline.tasks import TASKS
from pipeline.training.engine import fit
from pipeline.training.sampling import Lessons
from pipeline.training.watch import Watch

DEFAULTS = {
    "epochs": 3, "batch_size": 6, "mixup": 0.0, "cutmix": 0.0, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.01,
    "momentum": 0.9, "schedule": "cosine", "warmup": 0.1, "clip": 0.0, "accumulate": 1, "ema": 0.0, "swa": 0.0,
    "milestones": [0.3, 0.6, 0.9], "gamma": 0.1, "power": 1.0, "freeze": "none", "layer_decay": 1.0, "soup": 0,
    "seed": 3, "keep": None, "key": "k", "title": "toy fold 0", "machine": Machine("cpu", "fp32", 1),
}  # fmt: skip


@pytest.fixture
def machine():
    return DEFAULTS["machine"]


@pytest.fixture
def toy():
    def build(norm=False, dropout=0.0):
        torch.manual_seed(1)
        middle = [nn.BatchNorm2d(4)] if norm else []
        layers = [nn.Conv2d(1, 4, 3), *middle, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(16, 3))

    return build


@pytest.fixture
def run_fit(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 24)
    images = rng.integers(0, 100, (24, 8, 8, 1)).astype(np.uint8)
    images[np.arange(24), y * 2] += 120  # a bright line, at a height that tells the class

    def run(network, folder="run", recipe="light", record=None, evaluate=lambda net: {"valid_loss": 0.5}, **changes):
        home, entries = tmp_path / folder, []
        home.mkdir(exist_ok=True)
        rows = changes.pop("rows", np.arange(20))
        objective = Objective(TASKS["multiclass"], "classification", 3, y[rows])

        def note(entry):
            entries.append(entry)
            if record is not None:
                record(entry)

        given = {"objective": objective, "images": images, "targets": objective.encode(y)}
        given |= {"lessons": Lessons.of(rows), "weights": torch.ones(24)}
        given |= {"watch": Watch(objective.task, "classification", y, 3, objective.center, objective.spread)}
        given |= {"names": np.char.add("id", np.arange(24).astype(str)), "augment": augmenter(recipe)}
        given |= {"checkpoint": home / "last.pt", "log_file": home / "log.jsonl", "evaluate": evaluate, "record": note}
        fitted = fit(network, **{**DEFAULTS, **given, **changes})
        log = [json.loads(line) for line in given["log_file"].read_text().splitlines()]
        return SimpleNamespace(net=fitted, log=log, entries=entries, home=home, images=images, y=y)

    return run


@pytest.fixture(scope="session")
def first_school():
    yield built()
    shutil.rmtree(built())


@pytest.fixture
def school(first_school, tmp_path, monkeypatch):
    """A school for a test alone: runs toy/a and toy/b (with pairs), their blend, pseudo-labels p, student s."""
    shutil.copytree(first_school, tmp_path / "school")
    monkeypatch.chdir(tmp_path / "school")
    return tmp_path / "school"
