"""Layers from the image to the head: what they are, which of them train, and what stays as it was."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.nets.machine import to_device
from pipeline.nets.models import build
from pipeline.training.layers import free_stages, freeze_for, layers_of, stages_of, thaw

NAMES = ["cnn", "test_resnet", "test_efficientnet", "test_convnext", "test_vit"]


def network(name="cnn", channels=3, size=32, **changes):
    torch.manual_seed(2)
    head = {"outputs": 3, "pool": "avg", "dropout": 0.0, "normalize": "half"} | changes
    options = {"widths": [4, 6]} if name == "cnn" else {}
    return build(name, weights="none", options=options, channels=channels, size=(size, size), **head)


def small():
    return network(channels=1, size=8)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_layers_go_from_the_image_to_the_head(name, coarse):
    backbone = network(name).backbone
    layers = layers_of(backbone, coarse)
    assert layers.keys() == dict(backbone.named_parameters()).keys()
    assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1))
    first = next(name for name, p in backbone.named_parameters() if p.ndim == 4)
    assert layers[first] == 0
    # Gradients of a later layer do not need an earlier one: the order is that of the forward pass.
    order = []
    for key, module in backbone.named_modules():
        own = [layers[f"{key}.{n}"] for n, _ in module.named_parameters(recurse=False)] if key else []
        if own:
            module.register_forward_hook(lambda module, args, out, layer=own[0]: order.append(layer))
    backbone.eval()
    backbone.forward_features(torch.rand(1, 3, 32, 32))
    assert all(a <= b for a, b in pairwise(order))


def test_stages_of_a_resnet():
    stages = layers_of(network("test_resnet").backbone, coarse=True)
    assert stages["conv1.0.weight"] == stages["bn1.weight"] == 0
    assert {name.split(".")[0]: stage for name, stage in stages.items() if name.startswith("layer")} == {
        f"layer{n}": n for n in (1, 2, 3, 4)
    }


@pytest.mark.parametrize("epochs, stages", [(2, 5), (3, 5), (10, 5), (20, 5), (20, 13), (4, 1), (7, 6)])
def test_gradual_frees_all_for_the_second_half(epochs, stages):
    free = [free_stages("gradual", epoch, epochs, stages) for epoch in range(epochs)]
    assert free[0] == 0
    assert all(a <= b for a, b in pairwise(free))
    assert all(count == stages for count in free[(epochs + 1) // 2 :])
    if epochs >= 2 * stages:
        assert free[: stages + 1] == list(range(stages + 1))  # one more each epoch
    assert [free_stages("head", epoch, epochs, stages) for epoch in range(epochs)] == [0] * epochs


@pytest.mark.parametrize("count, chosen", [(4, "head"), (5, "gradual"), (20, "gradual"), (21, "none")])
def test_images_per_class_choose(count, chosen):
    assert freeze_for(np.repeat(np.arange(3), count), 3) == chosen
    labels = np.zeros((500, 2), int)
    labels[:count] = 1  # of 500 images only some have the labels
    assert freeze_for(labels, 2) == chosen


@pytest.mark.parametrize("name", NAMES)
def test_thaw(name):
    net = network(name)
    stages = stages_of(net)
    count = len(stages)
    assert sum(map(len, stages)) == len(list(net.backbone.parameters()))
    for free in (0, 1, count - 1, count, 1):
        net.train()
        thaw(net, stages, free)
        layer = layers_of(net.backbone, coarse=True)
        for key, parameter in net.backbone.named_parameters():
            assert parameter.requires_grad == (layer[key] >= count - free)
        assert all(p.requires_grad for p in net.head.parameters())
        for key, module in net.backbone.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == (layer[f"{key}.weight"] >= count - free)


def test_what_never_trained_is_not_thawed():
    net = network()
    net.backbone.layers[0].weight.requires_grad_(False)
    stages = stages_of(net)
    thaw(net, stages, len(stages))
    assert not net.backbone.layers[0].weight.requires_grad


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("how", [{}, {"ema": 0.5}, {"swa": 0.3}, {"soup": 2}, {"optimizer": "sgd"}])
def test_only_the_head_trains(run_fit, how):
    net = small()
    before = copy.deepcopy(net.state_dict())
    run = run_fit(net, freeze="head", weight_decay=0.3, **how)
    assert moved(before, run.net.state_dict()) == {"head.weight", "head.bias"}


def test_the_head_learns_as_on_fixed_features(run_fit):
    """With the backbone frozen it is a linear model on features that never change: plain torch gives the same."""
    net = small()
    twin = copy.deepcopy(net).eval()
    run = run_fit(net, freeze="head", recipe="none", optimizer="sgd", momentum=0.0, weight_decay=0.0, batch_size=20,
                  epochs=3, schedule="constant", warmup=0.0, lr=0.5)  # fmt: skip
    with torch.no_grad():
        features = twin.features(to_device(torch.from_numpy(run.images[:20]), run_machine()))
    for _ in range(3):
        loss = nn.functional.cross_entropy(twin.head(features), torch.from_numpy(run.y[:20]))
        grads = torch.autograd.grad(loss, list(twin.head.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(twin.head.parameters(), grads, strict=True):
                parameter -= 0.5 * grad
    torch.testing.assert_close(run.net.head.weight, twin.head.weight, atol=1e-5, rtol=1e-4)


def run_machine():
    from pipeline.nets.machine import Machine

    return Machine("cpu", "fp32", 1)


def test_gradual_moves_stage_by_stage(run_fit):
    net, states = small(), []
    layer = layers_of(net.backbone, coarse=True)
    states.append(copy.deepcopy(net.state_dict()))
    run_fit(net, freeze="gradual", epochs=8, ema=0.0,
            keep=lambda entry, current: states.append(copy.deepcopy(current.state_dict())))  # fmt: skip
    weights = {f"backbone.{name}": number for name, number in layer.items()}
    for epoch, (before, after) in enumerate(pairwise(states)):
        stages = {weights[name] for name in moved(before, after) & weights.keys()}
        assert stages == set(range(4 - epoch if epoch < 4 else 0, 4)), epoch
        norms = {name for name in moved(before, after) if name.endswith("running_mean")}
        assert len(norms) == min(epoch, 4)


def test_layer_decay_slows_the_first_layers(run_fit):
    """A step of plain SGD is as long as the rate: a layer's steps are decay^d of what they would be."""
    nets = []
    for decay in (1.0, 0.1):
        net = small()
        before = copy.deepcopy(net.state_dict())
        run_fit(net, str(decay), layer_decay=decay, optimizer="sgd", momentum=0.0, weight_decay=0.0, epochs=1,
                batch_size=20, schedule="constant", warmup=0.0, recipe="none")  # fmt: skip
        nets.append({name: value - before[name] for name, value in net.state_dict().items() if "weight" in name})
    depth = {f"backbone.{name}": 4 - layer for name, layer in layers_of(small().backbone, coarse=False).items()}
    for name, step in nets[1].items():
        wanted = nets[0][name] * 0.1 ** depth.get(name, 0)
        torch.testing.assert_close(step, wanted, atol=2e-7, rtol=1e-2)
