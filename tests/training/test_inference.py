"""Ways to predict: near to what was trained, the same for every row, chosen once."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from house import write
from school import job_of, stage
from torch import nn

from pipeline.nets.machine import Machine
from pipeline.nets.models import build
from pipeline.tasks import TASKS
from pipeline.training import inference
from pipeline.training.inference import CHUNK, WAYS, ready, with_inference
from pipeline.training.predict import embed, predict

CPU = Machine("cpu", "fp32", 1)


def network(name="test_resnet", **how):
    torch.manual_seed(0)
    net = build(name, weights="none", options={}, channels=3, size=(32, 32), outputs=4, pool="avg", dropout=0.5,
                normalize="half", **how)  # fmt: skip
    net.train()
    with torch.no_grad():  # norms that do something
        for _ in range(3):
            net(torch.rand(8, 3 * net.views, 32, 32))
    return net.eval()


def pictures(count=CHUNK + 5, channels=3):
    return np.random.default_rng(0).integers(0, 255, (count, 32, 32, channels)).astype(np.uint8)


def look(net, images, rows=None, batch_size=20, tta="hflip"):
    rows = np.arange(len(images)) if rows is None else rows
    how = {"machine": CPU, "tta": tta, "batch_size": batch_size}
    return predict(net, TASKS["multiclass"], "classification", images, rows, **how)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_near_and_the_same_for_every_row(way, name):
    net, images = network(name), pictures()
    plain, twin = look(net, images), ready(net, way, [32, 32])
    rough = look(twin, images)
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, plain)
    np.testing.assert_allclose(rough, plain, atol=0.02)
    np.testing.assert_array_equal(look(net, images), plain)  # the network itself stays as it was
    # Alone, in another order or another batch a row is predicted alike.
    rows = np.array([36, 3])
    np.testing.assert_allclose(look(twin, images, rows, batch_size=1), rough[rows], atol=1e-6)  # the head is as it was
    x = torch.rand(CHUNK + 5, 3, 32, 32)
    together = twin.backbone.forward_features(x)
    assert torch.equal(twin.backbone.forward_features(x[rows]), together[rows])
    features = torch.cat([part for part, _ in embed(twin, images, machine=CPU, batch_size=20)]).float()
    wanted = torch.cat([part for part, _ in embed(net, images, machine=CPU, batch_size=20)]).float()
    torch.testing.assert_close(features, wanted, atol=0.02 * float(wanted.std()) + 0.02, rtol=0.1)


def test_views_of_a_row_and_what_stands_beside():
    net, images = network(views=2, aggregate="attention"), pictures(5, 6)
    np.testing.assert_allclose(look(ready(net, "bf16", [32, 32]), images), look(net, images), atol=0.02)


def test_as_it_trained():
    net = network()
    assert ready(net, "same", [32, 32]) is net


@pytest.mark.parametrize("seconds, way", [
    ({"same": 10.0, "bf16": 5.0, "traced": 4.0}, "traced"),
    ({"same": 10.0, "bf16": 9.5, "traced": 12.0}, "same"),  # too little to round for
    ({"same": 10.0, "bf16": 5.0}, "bf16"),  # the other one fails
])  # fmt: skip
def test_the_way_is_chosen_once_stored_and_told(school, monkeypatch, seconds, way):
    write("quick", 'base = "a"\n[predict]\nfastest = true\ntta = "hflip"\n')
    asked = []

    def measure(network, machine, side, images, name):
        asked.append((name, images))
        if name not in seconds:
            raise RuntimeError("cannot be traced")
        return seconds[name]

    monkeypatch.setattr(inference, "measure", measure)
    stage("train", "toy/quick")
    job = job_of("toy/quick")
    images = 3 * (len(job.table.scored) + len(job.table.test))
    assert asked == [(name, images) for name in ("same", "bf16", "traced")]
    assert f"predict.fastest = true is {way!r} on this machine" in (school / "runs/toy/quick/run.log").read_text()
    state = json.loads((school / "runs/toy/quick/state.json").read_text())
    fold = json.loads((school / "runs/toy/quick/fold1/fold.json").read_text())
    assert state["machine"]["inference"] == fold["machine"]["inference"] == way
    moved = fold.get("inference", {"way": "same", "moved": 0.0})
    assert moved["way"] == way
    assert (moved["moved"] > 0) == (way != "same")
    assert moved["moved"] < 0.02
    # New views are predicted in the same way; without the switch as trained, and no model is fitted again.
    monkeypatch.setattr(inference, "measure", lambda *given: pytest.fail("probed"))
    weights = (school / "runs/toy/quick/fold1/model.safetensors").stat().st_mtime_ns
    write("quick", 'base = "a"\n[predict]\nfastest = true\n')
    stage("train", "toy/quick")
    write("quick", 'base = "a"\n')
    stage("train", "toy/quick")
    assert (school / "runs/toy/quick/fold1/model.safetensors").stat().st_mtime_ns == weights
    both = [(school / f"runs/toy/{name}/oof.npy").read_bytes() for name in ("a", "quick")]
    assert both[0] == both[1]


def test_small_jobs_stay_as_they_are(school):
    """Really measured: to put a graph together takes longer than to predict a few rows of 12 px."""
    write("quick", 'base = "a"\n[predict]\nfastest = true\n')
    chosen = with_inference(job_of("toy/quick"))
    assert chosen.machine.inference in ("same", "bf16")
    assert chosen.inference == chosen.machine.inference
    job = job_of("toy/a")
    assert with_inference(job) is job
    known = dataclasses.replace(job_of("toy/quick"), machine=Machine("cpu", "fp32", 1, inference="bf16"))
    assert with_inference(known) is known


class Other(nn.Module):
    """Computes other maps in half precision, as what goes wrong in a compiler may."""

    num_features = 3

    def forward_features(self, x):
        return x * (1 + torch.is_autocast_enabled("cpu"))


def test_other_maps_are_no_way_to_predict():
    net = network()
    net.backbone = Other()
    with pytest.raises(ValueError, match="features differ by"):
        inference.measure(net, CPU, [32, 32], 10, "bf16")
    assert inference.measure(net, CPU, [32, 32], 10, "same") > 0


def test_a_head_on_features_looks_in_the_same_way(school, monkeypatch):
    write("head", 'base = "a"\nfit = "linear"\n[predict]\nfastest = true\n')
    monkeypatch.setattr(inference, "measure", lambda *given: 1.0 if given[-1] == "bf16" else 2.0)
    ways = []
    real = inference.ready
    monkeypatch.setattr(
        "pipeline.training.frozen.ready", lambda net, way, side: ways.append(way) or real(net, way, side)
    )
    stage("train", "toy/head")
    assert set(ways) == {"bf16"}
