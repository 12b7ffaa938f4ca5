from dataclasses import replace

import numpy as np
import pytest
import torch
from files import grouped
from masked import masked

from pipeline.nets.machine import Machine, choose_machine
from pipeline.nets.models import build
from pipeline.store.files import read_npy
from pipeline.store.tracking import Tracker
from pipeline.tasks import TASKS
from pipeline.training.fold import fit_fold
from pipeline.training.predict import predict
from pipeline.training.probe import fastest, images_per_second
from pipeline.training.shelf import predict_fold
from pipeline.training.which import Which

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WAYS = [{}, {"ema": 0.9, "mixup": 1.0}, {"swa": 0.3, "accumulate": 2, "optimizer": "sgd", "clip": 1.0},
        {"freeze": "gradual", "layer_decay": 0.5, "soup": 2}]  # fmt: skip


def network():
    torch.manual_seed(2)
    return build("cnn", weights="none", options={"widths": [8, 16]}, channels=1, size=(8, 8), outputs=3, pool="gem",
                 dropout=0.2, normalize="half")  # fmt: skip


def test_batch_size_is_what_fits():
    machine = choose_machine("auto")
    net = network().to("cuda")

    def speed(size):
        if size > 64:
            torch.empty(2**50, device="cuda")  # more than any GPU has
        return images_per_second(net, machine, [8, 8], size) and size

    assert fastest(speed, 512) == 64


def test_groups_are_normalised_there(run_fit):
    run = run_fit(network(), machine=choose_machine("fp32"))
    together = grouped(run.images, np.array(["a", "b"] * 12), 1, ())
    how = {"tta": "none", "batch_size": 7}
    machines = [choose_machine("fp32"), Machine("cpu", "fp32", 1)]
    there, here = (
        predict(run.net, TASKS["multiclass"], "classification", together, np.arange(24), machine=m, **how)[0]
        for m in machines
    )
    np.testing.assert_allclose(there, here, atol=1e-3)


def look(net, run, machine, tta="hflip"):
    how = {"machine": machine, "tta": tta, "batch_size": 7}
    return predict(net, TASKS["multiclass"], "classification", run.images, np.arange(24), **how)[0]


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
@pytest.mark.parametrize("way", WAYS)
def test_fit_and_predict(run_fit, precision, way):
    machine = choose_machine(precision)
    assert machine.device == "cuda"
    run = run_fit(network(), machine=machine, epochs=4, **way)
    assert all(np.isfinite(entry["train_loss"]) for entry in run.entries)
    out = look(run.net, run, machine)
    assert (out.shape, out.dtype) == ((24, 3), np.float32)
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-5)


def test_learns(run_fit):
    run = run_fit(network(), machine=choose_machine("auto"), epochs=20, recipe="none")
    assert run.entries[-1]["train_loss"] < 0.5 * run.entries[0]["train_loss"]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("way", WAYS)
def test_resume(run_fit, way, precision, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    machine = choose_machine(precision)

    def stop(entry):
        if entry["epoch"] == 2:
            raise InterruptedError

    torch.manual_seed(11)
    whole = run_fit(network(), "whole", machine=machine, epochs=5, **way)
    with pytest.raises(InterruptedError):
        run_fit(network(), "cut", machine=machine, epochs=5, record=stop, **way)
    torch.manual_seed(12345)
    seen = []
    again = run_fit(
        network(), "cut", machine=machine, epochs=5, record=lambda entry: seen.append(entry["epoch"]), **way
    )
    assert seen == [2, 3, 4]
    # The fastest kernels of a GPU are not bit-exact, but dropout and batches must be the same.
    near = 1e-3 if precision == "fp32" else 3e-2
    np.testing.assert_allclose(look(whole.net, whole, machine), look(again.net, again, machine), atol=near)
    assert [line["step"] for line in again.log] == [line["step"] for line in whole.log]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tta", ["none", "hflip", "d4", "scales"])
def test_cpu_and_gpu_agree(run_fit, tta, dtype):
    run = run_fit(network(), machine=choose_machine("fp32"))
    run.images = run.images.astype(dtype) * (np.iinfo(dtype).max // 255)
    there = look(run.net, run, choose_machine("fp32"), tta)
    here = look(run.net, run, Machine("cpu", "fp32", 1), tta)
    np.testing.assert_allclose(there, here, atol=1e-3)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_masks(house, precision):
    job = masked("[loss]\nterms = { bce = 1.0, lovasz = 1.0, boundary = 0.01 }\ndistance = 1.0\n[average]\nema = 0.9\n")
    job, which = replace(job, machine=choose_machine(precision)), Which((0,))
    fit_fold(job, which, Tracker(None))
    predict_fold(job, which, Tracker(None))
    maps = read_npy(which.files(job.files).oof)
    assert np.isfinite(maps).all()
    assert 0 <= maps.min() <= maps.max() <= 1
