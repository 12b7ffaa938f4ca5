"""Heads that know no lengths, and what stands before them."""

import torch
from torch.nn import functional as F

from pipeline.nets.models import build


def network(**how):
    torch.manual_seed(0)
    return build("cnn", weights="none", options={"widths": [4]}, channels=1, size=(8, 8), outputs=3, pool="avg",
                 normalize="half", dropout=0.0, **how)  # fmt: skip


def test_a_cosine_head_knows_no_lengths_and_no_bias():
    net = network(cosine=30.0, bias=False).eval()
    x = torch.randn(6, 4)
    said = net.head(x)
    unit = F.normalize(x, dim=1) @ F.normalize(net.head.weight, dim=1).T
    torch.testing.assert_close(said, 30 * unit)
    torch.testing.assert_close(net.head(7 * x), said)
    assert "head.bias" not in net.state_dict()
    assert "head.bias" not in dict(net.named_parameters())
    with torch.no_grad():
        net.head.bias[:3] -= torch.tensor([1.0, 2.0, 3.0])  # the prior, taken out after training
    torch.testing.assert_close(net.head(x), said - torch.tensor([1.0, 2.0, 3.0]))
    with torch.autocast("cpu", torch.bfloat16):
        assert net.head(x.bfloat16()).dtype == torch.float32


def test_the_head_sees_what_is_behind_the_neck_and_triplets_what_is_before_it():
    net = network(neck=True, bias=False, show=True)
    x = torch.rand(16, 1, 8, 8)
    wide = net(x)
    assert wide.shape == (16, 3 + 4)
    fresh = network(neck=True, bias=False, show=True)
    before = fresh.pooled(x)
    torch.testing.assert_close(wide[:, 3:], before)
    normed = F.batch_norm(before, torch.zeros(4), torch.ones(4), training=True)
    torch.testing.assert_close(wide[:, :3], normed @ net.head.weight.T)
    net.eval()
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    assert not torch.allclose(net.features(x), net.pooled(x))
    assert not net.neck.bias.requires_grad
