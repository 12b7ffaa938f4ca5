import copy

import pytest
import torch
from torch import nn

from pipeline.nets.small_maps import SMALL, Product, as_products


@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), ((2, 3), (1, 2), (0, 1))]
)
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (3, 5), (4, 5)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_convolutions(kernel, stride, padding, size, layout, bias):
    """Values and both gradients, in double precision."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias).double().to(memory_format=layout)
    x = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    twin, found = copy.deepcopy(conv), []
    as_products(twin, True)
    assert type(twin) is Product
    for layer in (conv, twin):
        given = x.clone().requires_grad_()
        out = layer(given)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out, given.grad, *(parameter.grad for parameter in layer.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_plain_filters_on_small_maps(monkeypatch):
    plain = nn.Conv2d(4, 4, 3, padding=1)
    odd = [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"),
           nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")]  # fmt: skip
    net = nn.Sequential(plain, nn.Sequential(*odd))
    names = list(net.state_dict())
    as_products(net, True)
    assert [type(module) is Product for module in (plain, *odd)] == [True, False, False, False, False]
    called = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: called.append(x.shape) or x)
    plain(torch.zeros(1, 4, 4, SMALL // 4))
    plain(torch.zeros(1, 4, 4, SMALL // 4 + 1))
    assert called == [(1, 4, 4, SMALL // 4 + 1)]
    as_products(net, False)
    assert type(plain) is nn.Conv2d
    assert list(net.state_dict()) == names


def test_half_precision():
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 16, 3, padding=1)
    x = torch.randn(4, 32, 2, 2)
    wanted = conv(x)
    as_products(conv, True)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.03)
