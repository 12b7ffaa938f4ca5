import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.nets.models import build
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
    shrink,
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
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "step"])
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


@pytest.mark.parametrize("milestones, gamma", [([0.3, 0.6, 0.9], 0.1), ([0.5], 0.3), ([], 0.1)])
def test_step_is_that_of_torch(milestones, gamma):
    total, optimizer = 50, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(total * m) for m in milestones], gamma)
    for at in range(total):
        ours = factor("step", (at + 1) / total, 0.0, 0.0, milestones=milestones, gamma=gamma, power=3.0)
        assert ours == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert factor("step", 0.05, 0.1, 0.0, milestones=milestones, gamma=gamma) == pytest.approx(0.5)


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_polynomial_is_that_of_torch(power):
    total, optimizer = 50, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total, power)
    for at in range(total + 1):
        assert factor("polynomial", at / total, 0.0, 0.0, power=power) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


NAMES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]


@pytest.mark.parametrize("name", NAMES)
def test_layer_decay_is_that_of_timm(name):
    net = build(name, weights="none", options={}, channels=3, size=(32, 32), outputs=5, pool="avg", dropout=0.0,
                normalize="half")  # fmt: skip
    ours = {id(p): (g["lr_scale"], g["weight_decay"]) for g in parameter_groups(net, 0.05, 0.7) for p in g["params"]}
    assert len(ours) == len(list(net.parameters()))
    twin = (
        timm.create_model(name, num_classes=5, img_size=32) if "vit" in name else timm.create_model(name, num_classes=5)
    )
    theirs = param_groups_layer_decay(twin, weight_decay=0.05, layer_decay=0.7)
    scales = {id(p): (g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}
    wanted = {
        n: scales[id(p)] for n, p in twin.named_parameters() if not n.startswith("head.") and "classifier" not in n
    }
    for key, parameter in net.backbone.named_parameters():
        if key in wanted:
            assert ours[id(parameter)] == pytest.approx(wanted[key]), key
    known = [key for key, _ in net.backbone.named_parameters() if key in wanted]
    assert len(known) > 0.9 * len(list(net.backbone.parameters()))
    assert ours[id(net.head.weight)] == (1.0, 0.05)
    assert ours[id(net.head.bias)] == (1.0, 0.0)


def test_layer_decay_of_the_small_net():
    net = build("cnn", weights="none", options={"widths": [2, 3]}, channels=1, size=(8, 8), outputs=5, pool="gem",
                dropout=0.0, normalize="half")  # fmt: skip
    scale = {id(p): g["lr_scale"] for g in parameter_groups(net, 0.05, 0.5) for p in g["params"]}
    found = {name: scale[id(p)] for name, p in net.named_parameters()}
    convolutions = [value for name, value in found.items() if name.startswith("backbone") and "weight" in name]
    assert convolutions == [
        1 / 16,
        1 / 16,
        1 / 8,
        1 / 8,
        1 / 4,
        1 / 4,
        1 / 2,
        1 / 2,
    ]  # a norm goes with its convolution
    assert found["head.weight"] == found["head.bias"] == found["pool.p"] == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_swa_floor(name):
    assert [factor(name, p, 0.1, 0.0) for p in GRID] == [SCHEDULES[name](p, 0.1) for p in GRID]
    values = [factor(name, p, 0.1, 0.6) for p in GRID]
    tail = values[120:]
    assert len(set(tail)) == 1
    assert tail[0] == (1 if name == "constant" else 0.25)
    assert values[1] == pytest.approx(SCHEDULES[name](0.005 / 0.6, 0.1))
    assert values[1] < 0.25  # warm-up starts from below the floor
    assert values[60] == pytest.approx(max(SCHEDULES[name](0.5, 0.1), 0.25))
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
    if name in ("adamw", "sgd"):
        torch.testing.assert_close(net[0].weight, before["0.weight"] * (1 - 0.1 * 0.5))
    else:  # decay is a gradient like any other, whose size they divide away
        assert ((net[0].weight - before["0.weight"]) * before["0.weight"] < 0).all()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_optimizers_take_lr_and_momentum(momentum):
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    adamw, sgd = (OPTIMIZERS[name](groups, 0.02, momentum) for name in ("adamw", "sgd"))
    assert adamw.defaults["betas"] == (momentum, 0.999)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (momentum, momentum > 0)
    assert adamw.defaults["lr"] == sgd.defaults["lr"] == 0.02


def rule_of(name, momentum):
    """The step from a gradient g of weights at w, as the papers have it (torch's small numbers): a closure with state."""
    square, moved, velocity, steps = 0.0, 0.0, 0.0, 0

    def step(g, lr):
        nonlocal square, moved, velocity, steps
        steps += 1
        if name == "adagrad":
            square += g**2
            return -lr * g / (square**0.5 + 1e-10)
        if name == "rmsprop":
            square = 0.99 * square + 0.01 * g**2
            velocity = momentum * velocity + g / (square**0.5 + 1e-8)
            return -lr * velocity
        if name == "adadelta":
            square = momentum * square + (1 - momentum) * g**2
            change = ((moved + 1e-6) / (square + 1e-6)) ** 0.5 * g
            moved = momentum * moved + (1 - momentum) * change**2
            return -lr * change
        velocity = momentum * velocity + (1 - momentum) * g
        square = 0.999 * square + 0.001 * g**2
        return -lr * (velocity / (1 - momentum**steps)) / ((square / (1 - 0.999**steps)) ** 0.5 + 1e-8)

    return step


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "adadelta"])
def test_a_step_is_that_of_the_paper(name, momentum):
    """With weight decay in the gradient; the rate changes on the way, as schedules have it."""
    weight = nn.Parameter(torch.tensor([[0.7]], dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([{"params": [weight], "weight_decay": 0.1}], 0.5, momentum)
    rule, ours = rule_of(name, momentum), 0.7
    for at in range(6):
        lr = 0.5 / (at + 1)
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.full_like(weight, math.sin(at + 1.0))
        optimizer.step()
        ours += rule(math.sin(at + 1.0) + 0.1 * ours, lr)
        assert weight.item() == pytest.approx(ours, rel=1e-9)


RATES = {"adamw": 5e-3, "adam": 5e-3, "sgd": 0.05, "rmsprop": 1e-3, "adagrad": 0.02, "adadelta": 1.0}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_digits(name):
    """Ledger: above .93 after 5 epochs, each at a rate of its own kind."""
    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    pixels = pixels.float().reshape(-1, 1, 8, 8) / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    optimizer = OPTIMIZERS[name](parameter_groups(net, 1e-4), RATES[name], 0.9)
    order = torch.randperm(1797)
    train, test = order[:1300], order[1300:]
    for _ in range(5):
        for rows in train[torch.randperm(1300)].split(16):
            loss = nn.functional.cross_entropy(net(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert (net(pixels[test]).argmax(1) == labels[test]).float().mean() > 0.93


def test_l1_finds_the_lasso():
    """The minimum of mean squares / 2 + l1 |w|, as scikit-learn has it: the same weights are exactly 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    y = x @ np.array([1.0, -2.0, 0.5, 0, 0, 0, 0, 0]) + rng.normal(size=200)
    wanted = Lasso(alpha=0.3, fit_intercept=False, tol=1e-9).fit(x, y).coef_
    inputs, truth, weight = torch.as_tensor(x), torch.as_tensor(y), nn.Parameter(torch.ones(8, 1, dtype=torch.float64))
    optimizer = OPTIMIZERS["sgd"]([{"params": [weight], "weight_decay": 0.0}], 0.1, 0.0)
    optimizer.register_step_post_hook(shrink(0.3))
    for _ in range(400):
        ((inputs @ weight).squeeze() - truth).square().mean().div(2).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = weight.detach().numpy()[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found == 0, wanted == 0)
    assert 0 < (wanted == 0).sum() < 8


def test_l1_spares_vectors_and_frozen_weights_and_never_turns_a_sign():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[1].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    optimizer = OPTIMIZERS["sgd"](parameter_groups(net, 0.0), 0.1, 0.0)
    optimizer.register_step_post_hook(shrink(3.0))
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    shrunk = before["0.weight"].sign() * (before["0.weight"].abs() - 0.3).clamp(min=0)
    torch.testing.assert_close(net[0].weight.data, shrunk)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before if key != "0.weight")


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
