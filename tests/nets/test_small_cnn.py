"""The small CNN of our own."""

import pytest
import torch
from torch import nn

from pipeline.nets.models import build
from pipeline.nets.small_cnn import SmallCNN
from pipeline.nets.trunk import levels


def test_small_cnn_is_kaiming():
    net = SmallCNN(3, (64, 128))
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.weight.shape[:2] for conv in convolutions] == [(64, 3), (64, 64), (128, 64), (128, 128)]
    for conv in convolutions[1:]:
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.05)


def test_its_stages_end_where_it_is_halved():
    net, x = SmallCNN(3, (4, 6, 8)).eval(), torch.rand(2, 3, 32, 32)
    maps = levels(net, x)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 32, 32), (6, 16, 16), (8, 8, 8)]
    torch.testing.assert_close(maps[-1], net.forward_features(x))
    torch.testing.assert_close(net.layers[:6](x), maps[0])
    given = {"weights": "none", "options": {"widths": [4, 6]}, "channels": 3, "size": (32, 32), "outputs": 4}
    both = build("cnn", **given, pool="catavgmax", dropout=0.0, normalize="half", multiscale="concat")
    assert both.features(x).shape == (2, 2 * (4 + 6))
