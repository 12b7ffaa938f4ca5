"""What a machine chooses by trying: the batch size; precision, layout and the optimiser's kernels."""

import dataclasses
import json

import pytest
import torch
from house import write
from school import job_of, stage

from pipeline.nets.machine import Machine
from pipeline.store.errors import UserError
from pipeline.training import probe
from pipeline.training.probe import best_of, fastest, images_per_second, with_batch_size, with_fastest


@pytest.mark.parametrize("speeds, most, chosen", [
    ({16: 100, 32: 180, 64: 300, 128: 310}, 512, 64),  # no tenth more: not worth the memory
    ({16: 100, 32: 105}, 512, 16),
    ({16: 2, 32: 4, 64: 8}, 64, 64),
    ({16: 2, 32: 4}, 63, 32),
    ({16: 1}, 3, 16),
])  # fmt: skip
def test_doubled_while_it_pays(speeds, most, chosen):
    seen = []
    assert fastest(lambda size: seen.append(size) or speeds[size], most) == chosen
    assert seen == sorted(speeds)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
def test_what_does_not_fit_is_not_taken(error):
    def speed(size):
        if size > 32:
            raise error
        return size

    assert fastest(speed, 512) == 32


def test_nothing_fits(school, monkeypatch):
    write("auto", 'base = "a"\nbatch_size = "auto"\n')

    def speed(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(probe, "images_per_second", speed)
    with pytest.raises(UserError, match=r'configs/toy/auto.toml: batch_size = "auto": 16 images of 12 x 12 do not fit'):
        stage("train", "toy/auto")
    assert not (school / "runs/toy/auto/state.json").exists()


def test_other_errors_pass():
    def speed(size):
        if size > 16:
            raise RuntimeError("shapes differ")
        return size

    with pytest.raises(RuntimeError, match="shapes differ"):
        fastest(speed, 512)


def test_a_real_step_is_timed(school, monkeypatch):
    from pipeline.training.job import new_network

    ticks = iter([0, 100, 100, 101, 101, 105, 105, 107])  # the first step warms up; the best of the others takes 1 s
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(ticks))
    net, seen = new_network(job_of("toy/a")), []
    before = net.head.weight.detach().clone()
    net.register_forward_hook(lambda module, args, out: seen.append((args[0].shape, module.training)))
    assert images_per_second(net, Machine("cpu", "fp32", 1), [12, 12], 16) == 16
    assert seen == [((16, 1, 12, 12), True)] * 4
    assert not torch.equal(net.head.weight, before)


def test_it_is_chosen_once_stored_and_told(school, monkeypatch):
    write("auto", 'base = "a"\nbatch_size = "auto"\n')
    calls = []
    monkeypatch.setattr(probe, "fastest", lambda speed, most: calls.append(most) or 16)
    stage("train", "toy/auto")
    assert calls == [6]  # a tenth of 60 rows
    run = json.loads((school / "runs/toy/auto/cv.json").read_text())
    fold = json.loads((school / "runs/toy/auto/fold1/fold.json").read_text())
    state = json.loads((school / "runs/toy/auto/state.json").read_text())
    assert run["machine"]["batch_size"] == state["machine"]["batch_size"] == fold["batch_size"] == 16
    # 16 is what "a" says: the same weights.
    weights = [(school / f"runs/toy/{name}/fold1/oof.npy").read_bytes() for name in ("a", "auto")]
    assert weights[0] == weights[1]
    # A run that goes on does not ask again, whatever the machine would say now.
    (school / "runs/toy/auto/cv.json").unlink()
    for path in (school / "runs/toy/auto/fold2").iterdir():
        path.unlink()
    stage("train", "toy/auto")
    assert calls == [6]
    again = json.loads((school / "runs/toy/auto/fold2/fold.json").read_text())
    assert again["batch_size"] == 16


def test_what_is_said_is_not_probed(school, monkeypatch):
    monkeypatch.setattr(probe, "fastest", lambda speed, most: pytest.fail("probed"))
    job = job_of("toy/a")
    assert with_batch_size(job) is job
    assert job.batch_size == 16
    write("auto", 'base = "a"\nbatch_size = "auto"\n')
    known = dataclasses.replace(job_of("toy/auto"), machine=Machine("cpu", "fp32", 1, 24))
    assert with_batch_size(known) is known
    assert known.batch_size == 24


def test_a_toy_is_really_probed(school):
    write("auto", 'base = "a"\nbatch_size = "auto"\n')
    assert with_batch_size(job_of("toy/auto")).batch_size == 16  # 60 rows allow no more


USUAL = Machine("cpu", "fp32", 1)
HALF, FUSED = dataclasses.replace(USUAL, precision="bf16", quick=True), dataclasses.replace(USUAL, quick=True)


@pytest.mark.parametrize("first, again, chosen, gain", [
    ((100, 150, 110), (100, 150), HALF, 1.5),
    ((100, 90, 110), (100, 112), FUSED, 1.12),
    ((100, 104, 90), (), USUAL, 1.0),  # not by enough
    ((100, 150, 90), (149, 140), USUAL, 1.0),  # the second time it was not: something else ran the first time
    ((100, 99, 98), (), USUAL, 1.0),
])  # fmt: skip
def test_what_is_usual_stays_unless_clearly_beaten(first, again, chosen, gain):
    asked, speeds = [], iter([*first, *again])
    best = best_of(lambda machine: asked.append(machine) or next(speeds), USUAL, [HALF, FUSED])
    assert best == dataclasses.replace(chosen, gain=gain)
    assert asked == [USUAL, HALF, FUSED, *((USUAL, chosen if chosen != USUAL else HALF) if again else ())]
    assert next(speeds, None) is None


def test_the_fastest_is_chosen_once_stored_and_told(school, monkeypatch):
    write("quick", 'base = "a"\nfastest = true\n')
    asked = []

    def speed(network, machine, side, size):
        asked.append((machine.precision, machine.layout, machine.quick, size))
        return 3.0 if (machine.precision, machine.layout) == ("bf16", "channels_last") else 2.0

    monkeypatch.setattr(probe, "images_per_second", speed)
    stage("train", "toy/quick")
    assert asked[:5] == [("fp32", "channels_last", False, 16), *((p, m, True, 16) for p in ("fp32", "bf16")
                                                                 for m in ("channels_last", "channels_first"))]  # fmt: skip
    assert len(asked) == 7
    state = json.loads((school / "runs/toy/quick/state.json").read_text())["machine"]
    run = json.loads((school / "runs/toy/quick/cv.json").read_text())["machine"]
    assert run == state
    assert state | {"precision": "bf16", "quick": True, "gain": 1.5, "layout": "channels_last"} == state
    told = (school / "runs/toy/quick/run.log").read_text()
    assert "fastest = true is bf16, channels_last, quick kernels: 1.50 times" in told
    # A run that goes on does not ask again, and gives the same bytes.
    whole = (school / "runs/toy/quick/fold2/oof.npy").read_bytes()
    assert whole != (school / "runs/toy/a/fold2/oof.npy").read_bytes()
    (school / "runs/toy/quick/cv.json").unlink()
    for path in (school / "runs/toy/quick/fold2").iterdir():
        path.unlink()
    monkeypatch.setattr(probe, "images_per_second", lambda *given: pytest.fail("probed"))
    stage("train", "toy/quick")
    assert (school / "runs/toy/quick/fold2/oof.npy").read_bytes() == whole


def test_a_precision_that_is_said_stays(school, monkeypatch):
    write("said", 'base = "a"\nfastest = true\nprecision = "fp32"\n')
    asked = []
    monkeypatch.setattr(probe, "images_per_second", lambda n, machine, *_: asked.append(machine.precision) or 1.0)
    assert with_fastest(job_of("toy/said")).machine == dataclasses.replace(USUAL, gain=1.0)
    assert asked == ["fp32"] * 3
    job = job_of("toy/a")
    assert with_fastest(job) is job


def test_a_toy_is_really_raced(school):
    write("quick", 'base = "a"\nfastest = true\n')
    machine = with_fastest(job_of("toy/quick")).machine
    assert machine.gain >= 1
    assert (machine.gain == 1) == (machine == dataclasses.replace(USUAL, gain=1.0))
