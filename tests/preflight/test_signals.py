import math

import pytest
import torch
from torch import nn

from pipeline.preflight.findings import BROKEN, LOOK, OK
from pipeline.preflight.signals import Layer, differing, flow, heard, judged_flow, signals


def test_features_that_do_not_hang_on_the_image_are_told():
    assert differing(torch.ones(5, 3)) == 0
    assert differing(torch.zeros(5, 3)) == 0
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    assert differing(x) == pytest.approx(1, abs=0.01)
    assert differing(x + 3) == pytest.approx(0.1, abs=0.01)


def test_channels_that_say_nothing_are_counted():
    x = torch.randn(6, 4, 3, 3)
    x[:, 1] = 0.5
    size, still = heard(x)
    assert still == 0.25
    assert size == pytest.approx(x.square().mean().sqrt().item())
    assert heard(x.flatten(2).transpose(1, 2))[1] == 0.25  # tokens
    assert heard(torch.zeros(2, 3))[1] == 1


def test_layers_come_in_order_with_their_gradients(material):
    one = material()
    batch = one.batch(one.rows)
    layers, _, loss = signals(one, batch)
    kinds = [layer.kind for layer in layers]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["MaxPool2d"] + ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + [
        "Linear"
    ]
    assert all((layer.gradient is not None) == (layer.kind in ("Conv2d", "Linear")) for layer in layers)
    assert layers[1].size == pytest.approx(1, abs=0.02)  # batch norm
    assert loss > 0
    assert flow(one, batch)[0].verdict == OK


class Chain(nn.Module):
    """Thirty ReLU layers without a norm, whose weights have a given standard deviation (0: Kaiming's)."""

    def __init__(self, std):
        super().__init__()
        self.num_features = 64
        layers = []
        for n in range(30):
            conv = nn.Conv2d(1 if not n else 64, 64, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight) if not std else nn.init.normal_(conv.weight, std=std)
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward_features(self, x):
        return self.layers(x)


# He 2015: with Kaiming's weights signals keep their size (though 30 layers make images alike), with .01 they fade (to
# 1e-29), with 1 they explode (to 1e31).
@pytest.mark.parametrize("std, verdict", [(0, LOOK), (0.01, BROKEN), (1.0, BROKEN)])
def test_thirty_layers_without_a_norm(std, verdict, material):
    one = material()
    torch.manual_seed(0)
    one.first.backbone = Chain(std)
    one.first.head = nn.Linear(64, 4)
    found, layers = flow(one, one.batch(one.rows))
    assert found.verdict == verdict
    if not std:
        assert 0.3 < layers[-2].size / layers[1].size < 3


def test_one_dead_layer_is_enough(material):
    one = material()
    with torch.no_grad():
        next(m for m in one.first.modules() if isinstance(m, nn.Conv2d)).weight.zero_()
    found, _ = flow(one, one.batch(one.rows))
    assert found.verdict == BROKEN
    assert "dead" in found.advice


def test_verdicts_on_numbers():
    fine = [Layer("a", "Conv2d", (1,), 1.0, 0.0, 0.1), Layer("b", "ReLU", (1,), 2.0, 0.0, None)]
    cut = [Layer("a", "Conv2d", (1,), 1.0, 0.0, 0.0)]
    loud = [*fine, Layer("c", "ReLU", (1,), 1e5, 0.0, None)]
    assert judged_flow(fine, 0.1, 2.3)[0] == OK
    assert judged_flow(fine, 0.1, math.nan)[0] == BROKEN
    assert judged_flow(fine, 0.0, 2.3)[0] == BROKEN
    assert judged_flow(fine, 1e-4, 2.3)[0] == LOOK
    assert judged_flow(cut, 0.1, 2.3)[0] == BROKEN
    assert judged_flow(loud, 0.1, 2.3)[0] == LOOK
    assert "c" in judged_flow(loud, 0.1, 2.3)[1]
