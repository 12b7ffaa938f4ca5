import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.training.optim import (
    OPTIMIZERS,
    SCHEDULES,
    averaged,
    constant,
    cosine,
    ema_update,
    factor,
    onecycle,
    parameter_groups,
)

GRID = [i / 200 for i in range(201)]
WARMUPS = [0.0, 0.1, 0.5]


@pytest.mark.parametrize("warmup", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("schedule, start, end", [(constant, 0, 1), (cosine, 0, 0), (onecycle, 1 / 25, 1e-4)])
def test_corners(schedule, start, end, warmup):
    assert schedule(0.0, warmup) == pytest.approx(start)
    assert schedule(warmup, warmup) == pytest.approx(1)
    if warmup < 1:
        assert schedule(1.0, warmup) == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("schedule, end", [(constant, 1), (cosine, 0), (onecycle, 1e-4)])
def test_without_warmup(schedule, end):
    assert schedule(0.0, 0.0) == pytest.approx(1)
    assert schedule(1.0, 0.0) == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_rises_then_falls(name, warmup):
    values = [SCHEDULES[name](progress, warmup) for progress in GRID]
    peak = round(warmup * 200)
    assert all(a < b for a, b in pairwise(values[: peak + 1]))
    fall = pairwise(values[peak:])
    assert all(a == b == 1 for a, b in fall) if name == "constant" else all(a > b for a, b in fall)
    assert max(values) <= 1 + 1e-12


def test_shapes():
    assert constant(0.05, 0.2) == cosine(0.05, 0.2) == pytest.approx(0.25)
    assert cosine(0.4, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine(0.6, 0.2) == pytest.approx(0.5)
    assert onecycle(0.1, 0.2) == pytest.approx((1 + 1 / 25) / 2)
    assert onecycle(0.6, 0.2) == pytest.approx((1 + 1e-4) / 2)


@pytest.mark.parametrize("warmup", [0.2, 0.5])
def test_onecycle_is_that_of_torch(warmup):
    # torch counts steps from 0 to total - 1 and its warm-up ends at warmup * total - 1; ours are shares of the way.
    total, peak = 100, 0.3
    last, top = total - 1, warmup * total - 1
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=total, pct_start=warmup, div_factor=25, final_div_factor=1e4 / 25
    )
    for step in range(total):
        assert peak * onecycle(step / last, top / last) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < last:
            theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_swa_floor(name):
    assert [factor(name, p, 0.1, 0.0) for p in GRID] == [SCHEDULES[name](p, 0.1) for p in GRID]
    values = [factor(name, p, 0.1, 0.6) for p in GRID]
    tail = values[120:]
    assert len(set(tail)) == 1
    assert tail[0] == (1 if name == "constant" else 0.25)
    assert values[1] == pytest.approx(SCHEDULES[name](0.005 / 0.6, 0.1))
    assert values[1] < 0.25  # warm-up starts from below the floor
    assert values[60] == pytest.approx(SCHEDULES[name](0.5, 0.1))
    assert all(value >= 0.25 for value in values[13:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vectors_are_not_decayed(name):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net.register_parameter("scale", nn.Parameter(torch.tensor(3.0)))
    net[3].weight.requires_grad_(False)
    groups = parameter_groups(net, 0.5)
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert found == {id(p): 0.5 if p.ndim > 1 else 0.0 for p in net.parameters() if p.requires_grad}
    before = copy.deepcopy(net.state_dict())
    optimizer = OPTIMIZERS[name](groups, 0.1, 0.0)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"0.weight"}
    torch.testing.assert_close(net[0].weight, before["0.weight"] * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_optimizers_take_lr_and_momentum(momentum):
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    adamw, sgd = (OPTIMIZERS[name](groups, 0.02, momentum) for name in ("adamw", "sgd"))
    assert adamw.defaults["betas"] == (momentum, 0.999)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (momentum, momentum > 0)
    assert adamw.defaults["lr"] == sgd.defaults["lr"] == 0.02


@pytest.mark.parametrize("decay", [0.15, 0.5, 0.999])
def test_ema_is_a_loop(decay):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = averaged(net, decay, 0.0)
    mean = None
    for step in range(8):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        net(torch.randn(5, 3))  # moves the statistics
        average.update_parameters(net)
        now = min(decay, (1 + step) / (10 + step))
        fresh = {key: value.clone() for key, value in net.state_dict().items()}
        mean = fresh if mean is None else {k: now * mean[k] + (1 - now) * fresh[k] for k in mean}
    ours = average.module.state_dict()
    assert ours.pop("1.num_batches_tracked") == 8
    for key, value in ours.items():
        torch.testing.assert_close(value, mean[key])
    assert (mean["0.weight"] - fresh["0.weight"]).abs().max() > 0.01


def test_ema_update_copies_counters():
    mean, count = torch.zeros(2), torch.tensor(1)
    update = ema_update(0.9)
    update([mean], [torch.ones(2)], 90)
    update([count], [torch.tensor(7)], 90)
    assert mean.tolist() == pytest.approx([0.1, 0.1])
    assert count == 7


def test_swa_is_the_mean():
    net = nn.Linear(2, 2)
    average, seen = averaged(net, 0.0, 0.5), []
    for _ in range(5):
        nn.init.normal_(net.weight)
        seen.append(net.weight.detach().clone())
        average.update_parameters(net)
    torch.testing.assert_close(average.module.weight, torch.stack(seen).mean(0))


def test_no_average():
    assert averaged(nn.Linear(1, 1), 0.0, 0.0) is None
    assert isinstance(averaged(nn.Linear(1, 1), 0.9, 0.0), AveragedModel)
