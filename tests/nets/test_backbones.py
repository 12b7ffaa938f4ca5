"""Published networks by name: build, train, checkpoint, continue, reload; one config, whatever the name and channels."""

import filecmp
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from house import prepare, write
from school import job_of

from pipeline.nets.objective import Objective
from pipeline.store.artifacts import RunFiles
from pipeline.store.tracking import Tracker
from pipeline.tasks import TASKS
from pipeline.training.fold import fit_fold
from pipeline.training.predict import scores
from pipeline.training.readable import every_image
from pipeline.training.weights import fitted_network
from pipeline.training.which import Which

MINIATURES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]
# Of each family the smallest where the name is free; all take images of 32 pixels.
PUBLISHED = ["seresnext50_32x4d", "seresnext101_32x8d", "densenet201", "resnext101_32x8d", "hrnet_w18", "hrnet_w30"]
PUBLISHED += ["efficientnet_b0", "mixer_s32_224", "mixer_b16_224", "vit_tiny_patch16_224", "convnext_tiny", "vgg16_bn"]

CONTRACT = """task = "multiclass"
metric = "log_loss"
id = "id"
target = "label"
[images]
pattern = "{{split}}/{{id}}.npy"
channels = {channels}
[folds]
n = 2
"""
# Plain SGD keeps nothing beside the weights, so that a checkpoint of the largest is no larger than its weights.
RUN = """epochs = 2
batch_size = 6
model.name = "{name}"
image = {{ size = 32, normalize = "half" }}
augment.recipe = "none"
optim = {{ name = "sgd", lr = 1e-3, momentum = 0.0, warmup = 0.0, schedule = "constant" }}
"""
WHICH = Which((0,))


@pytest.fixture
def field(house):
    """12 images of 32 x 32 pixels and any channels, 6 of them in a fold: one step an epoch."""

    def build(name, channels):
        rng = np.random.default_rng(channels)
        data = house / "data/toy"
        for split, ids in (("train", range(12)), ("test", range(12, 14))):
            (data / split).mkdir(parents=True)
            for i in ids:
                np.save(data / split / f"{i}.npy", rng.integers(0, 256, (32, 32, channels), dtype=np.uint8))
        pd.DataFrame({"id": range(12), "label": list("abc") * 4}).to_csv(data / "train.csv", index=False)
        sample = pd.DataFrame({"id": [12, 13]} | dict.fromkeys("abc", 1 / 3))
        sample.to_csv(data / "sample_submission.csv", index=False)
        (house / "configs/toy").mkdir(parents=True)
        (house / "configs/toy/competition.toml").write_text(CONTRACT.format(channels=channels))
        for run in ("whole", "killed"):
            write(run, RUN.format(name=name))
        prepare()

    yield build
    shutil.rmtree(house / "runs", ignore_errors=True)  # gigabytes, which pytest would keep


class Killed(Exception):
    pass


class KilledInTheSecondEpoch(Tracker):
    def log(self, numbers):
        if numbers["epoch"] == 1:
            raise Killed


def lines(run):
    return [json.loads(line) for line in WHICH.files(RunFiles(f"toy/{run}")).log.read_text().splitlines()]


def trains_continues_and_reloads(field, name, channels, monkeypatch):
    field(name, channels)
    job = job_of("toy/whole")
    fit_fold(job, WHICH, Tracker())
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    with pytest.raises(Killed):
        fit_fold(job_of("toy/killed"), WHICH, KilledInTheSecondEpoch())
    files = WHICH.files(RunFiles("toy/killed"))
    assert files.last.exists()
    assert not files.model.exists()
    fit_fold(job_of("toy/killed"), WHICH, Tracker())
    assert [line["step"] for line in lines("killed")] == [line["step"] for line in lines("whole")] == [0, 1, 1, 2]
    model = WHICH.files(job.files).model
    assert filecmp.cmp(files.model, model, shallow=False)

    network = fitted_network(job, model).eval()
    assert network.head.bias.all()  # it began as 0: steps were taken
    x = torch.rand(2, channels, 32, 32)
    assert network.features(x).shape == (2, network.head.in_features)
    network(x).sum().backward()
    idle = sum(p.numel() for p in network.parameters() if p.grad is None)
    assert idle < 0.01 * sum(p.numel() for p in network.parameters())  # what no feature passes is no part of it

    images = every_image(job, job.table.scored)
    held_out = np.flatnonzero(job.table.folds[job.table.scored] == 0)
    raw = scores(network, images, held_out, machine=job.machine, batch_size=256)
    assert raw.shape == (6, 3)
    y = job.task.targets(job.table.y[job.table.scored][held_out])
    objective = Objective(TASKS["multiclass"], "classification", 3, y)
    assert objective.loss(raw, objective.encode(y)).mean().item() == pytest.approx(
        lines("whole")[-1]["valid_loss"], rel=1e-6
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("name", MINIATURES)
def test_miniatures(name, channels, field, monkeypatch):
    trains_continues_and_reloads(field, name, channels, monkeypatch)


@pytest.mark.proof
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name, channels, field, monkeypatch):
    trains_continues_and_reloads(field, name, channels, monkeypatch)
