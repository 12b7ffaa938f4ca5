"""Pools, views put together, and metadata, against torch and numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.nets.models import build
from pipeline.nets.pooling import AGGREGATES, Attention, Beside, GeM, average, maximum, mean_view


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (2, 5, 11)])
def test_pools(shape):
    x = torch.rand(shape) + 0.01
    near = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(average(x), nn.AdaptiveAvgPool1d(1)(x.flatten(2)).flatten(1), **near)
    if len(shape) == 4:
        torch.testing.assert_close(average(x), nn.AdaptiveAvgPool2d(1)(x).flatten(1), **near)
    assert torch.equal(maximum(x), x.flatten(2).max(2).values)
    torch.testing.assert_close(GeM(1.0)(x), average(x), **near)
    torch.testing.assert_close(GeM(3.0)(x), (x**3).flatten(2).mean(2) ** (1 / 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(GeM(60.0)(x), maximum(x), rtol=0.08, atol=0)
    assert (GeM(3.0)(x) > average(x)).all()


def test_gem_learns_and_survives_zeros():
    pool, maps = GeM(), torch.zeros(2, 3, 4, 4, requires_grad=True)
    pool(maps).sum().backward()
    assert pool.p.grad.isfinite()
    assert maps.grad.isfinite().all()
    assert pool.p in set(pool.parameters())


@pytest.mark.parametrize("name", AGGREGATES)
def test_views_that_are_missing_say_nothing(name):
    torch.manual_seed(0)
    gather = AGGREGATES[name](6)
    x, seen = torch.randn(3, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    out = gather(x, seen)
    assert out.shape == (3, 6)
    torch.testing.assert_close(out[2], x[2, 3])
    torch.testing.assert_close(gather(torch.where(seen[:, :, None], x, 9.0), seen), out)
    torch.testing.assert_close(gather(x[1:2, [0, 2]], torch.ones(1, 2).bool())[0], out[1])
    torch.testing.assert_close(gather(x.flip(1), seen.flip(1)), out)  # the order of the views is nothing


def test_mean_view_is_the_mean():
    x = torch.randn(3, 4, 6)
    torch.testing.assert_close(mean_view(x, torch.ones(3, 4).bool()), x.mean(1))


def test_attention_is_ilses():
    torch.manual_seed(0)
    gather, x = Attention(5, hidden=7), torch.randn(2, 3, 5)
    hidden = torch.tanh(x @ gather.value.weight.T + gather.value.bias)
    hidden = hidden * torch.sigmoid(x @ gather.gate.weight.T + gather.gate.bias)
    share = torch.softmax((hidden @ gather.weight.weight.T + gather.weight.bias)[:, :, 0], 1)
    torch.testing.assert_close(gather(x, torch.ones(2, 3).bool()), torch.einsum("nv,nvf->nf", share, x))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_network_of_views(aggregate):
    torch.manual_seed(0)
    net = build("cnn", weights="none", options={"widths": [4]}, channels=2, size=(8, 8), outputs=3, pool="avg",
                dropout=0.0, normalize="half", views=3, aggregate=aggregate).eval()  # fmt: skip
    x = torch.rand(2, 6, 8, 8)
    alone = [net.look(x[:, 2 * v : 2 * v + 2]) for v in range(3)]
    if aggregate == "mean":
        torch.testing.assert_close(net.features(x), torch.stack(alone).mean(0))
    lacking = x.clone()
    lacking[:, 2:4] = 0  # the second view is missing
    two = net.gather(torch.stack([alone[0], alone[2]], 1), torch.ones(2, 2).bool())
    torch.testing.assert_close(net.features(lacking), two)
    assert net(torch.zeros(1, 6, 8, 8)).isfinite().all()


def test_metadata_is_measured_on_known_values():
    rng = np.random.default_rng(0)
    meta = rng.normal(5, 3, (40, 3))
    meta[rng.random(meta.shape) < 0.2] = np.nan
    meta[:, 2] = np.nan
    beside = Beside(3, 4)
    beside.measure(torch.as_tensor(meta))
    np.testing.assert_allclose(beside.center[:2], np.nanmean(meta[:, :2], 0), rtol=1e-5)
    np.testing.assert_allclose(beside.spread[:2], np.nanstd(meta[:, :2], 0), rtol=1e-5)
    assert beside.center[2] == 0
    assert beside.spread[2] == 1
    given = torch.tensor(meta, dtype=torch.float32)
    mean = torch.where(given.isnan(), beside.center, given)
    torch.testing.assert_close(beside(given), beside(mean))  # the unknown stands at the mean
    constant = Beside(1, 2)
    constant.measure(torch.full((5, 1), 7.0))
    assert constant(torch.full((1, 1), 7.0)).isfinite().all()


def test_metadata_joins_the_head():
    torch.manual_seed(0)
    net = build("cnn", weights="none", options={"widths": [4]}, channels=1, size=(8, 8), outputs=2, pool="avg",
                dropout=0.0, normalize="half", meta=3, beside=5).eval()  # fmt: skip
    x, meta = torch.rand(2, 1, 8, 8), torch.randn(2, 3)
    joined = torch.cat([net.features(x), net.beside(meta)], 1)
    torch.testing.assert_close(net(x, meta), net.head(joined))
    torch.testing.assert_close(net(x), net(x, net.beside.center.expand(2, -1)))
