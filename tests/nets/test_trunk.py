"""Activations, stochastic depth and maps of several stages, against what timm builds itself."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.nets.models import build
from pipeline.nets.trunk import ACTIVATIONS, Scales, set_activation
from pipeline.store.errors import UserError

KINDS = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit")


def make(name="test_resnet", **how):
    torch.manual_seed(0)
    given = {"weights": "none", "channels": 3, "size": (64, 64), "outputs": 4, "pool": "avg", "dropout": 0.0}
    given |= {"options": {"img_size": 64} if "vit" in name else {}, "normalize": "half"}
    return build(name, **given | how)


class Bare(nn.Module):
    """A backbone of the user's own, without activations or maps of stages."""

    num_features = 3

    def __init__(self, in_chans):
        super().__init__()

    def forward_features(self, x):
        return x


X = torch.rand(2, 3, 64, 64)


@pytest.mark.parametrize(
    "name, act",
    [("test_resnet", act) for act in ("leaky_relu", "tanh", "gelu", "silu", "sigmoid")]
    + [("test_efficientnet", "elu")],
)
def test_an_activation_is_that_of_timm(name, act):
    ours = make(name, act=act).backbone.eval()
    theirs = timm.create_model(name, num_classes=0, act_layer=act).eval()
    theirs.load_state_dict(ours.state_dict())
    plain = make(name).backbone.eval()
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(X), theirs.forward_features(X))
        assert not torch.allclose(ours.forward_features(X), plain.forward_features(X))


def test_every_activation_is_replaced_and_no_gate():
    shared = nn.ReLU(inplace=True)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Sequential(nn.Sigmoid(), shared, nn.GELU()), nn.PReLU())
    set_activation(net, "elu", "mine")
    kinds = [type(module).__name__ for module in net.modules() if not list(module.children())]
    assert kinds == ["Conv2d", "ELU", "Sigmoid", "ELU", "ELU", "ELU"]
    for name in ACTIVATIONS:
        assert make("cnn", act=name).features(X).isfinite().all()


def test_own_activations_stay():
    one, other = make(), make(act="own")
    assert torch.equal(one(X), other(X))


@pytest.mark.parametrize(
    "how, said",
    [
        ({"act": "rellu"}, "unknown model.act 'rellu'; did you mean 'relu'"),
        ({"name": "cnn", "drop_path": 0.1}, r"model\.drop_path: 'cnn' has no residual blocks"),
        ({"name": "vgg11", "drop_path": 0.1}, r"model\.drop_path: 'vgg11' has no residual blocks"),
        ({"name": "test_trunk:Bare", "act": "relu"}, "model.act = .relu.: 'test_trunk:Bare' has no activation"),
        ({"name": "test_trunk:Bare", "multiscale": "concat"}, r"model\.multiscale: Bare has no maps of its stages"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_is_one_line(how, said):
    with pytest.raises(UserError, match=said) as caught:
        make(**how)
    assert "\n" not in str(caught.value)


def test_depth_is_dropped_more_the_deeper():
    net = make("test_convnext", drop_path=0.3)
    rates = [m.drop_prob for m in net.modules() if type(m).__name__ == "DropPath"]
    wanted = torch.linspace(0, 0.3, len(rates) + 1)[1:] if len(rates) % 2 else None
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert wanted is None or np.allclose(rates, wanted, atol=0.05)
    net.train()
    torch.manual_seed(1)
    assert not torch.equal(net(X), net(X))
    net.eval()
    plain = make("test_convnext").eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(X), plain(X))


@pytest.mark.parametrize("name", KINDS)
def test_scales_are_the_maps_of_the_stages(name):
    net = make(name, multiscale="concat").eval()
    last, maps = net.backbone.forward_intermediates((X - 0.5) / 0.5)
    own = net.backbone.forward_features((X - 0.5) / 0.5)
    torch.testing.assert_close(last, own)
    pooled = [m.mean((2, 3)) for m in maps[-4:-1]]
    pooled.append(own[:, net.backbone.num_prefix_tokens :].mean(1) if own.ndim == 3 else own.mean((2, 3)))
    torch.testing.assert_close(net.features(X), torch.cat(pooled, 1))
    unit = make(name, multiscale="concat_l2").eval()
    unit.load_state_dict(net.state_dict() | {"scales.length": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    parts = [F.normalize(part, dim=1) * (i + 1) for i, part in enumerate(pooled)]
    torch.testing.assert_close(unit.features(X), torch.cat(parts, 1))


def test_lengths_begin_at_ten_and_are_learnt():
    scales = Scales(2, unit=True)
    joined = scales([torch.rand(3, 5), torch.rand(3, 7)])
    np.testing.assert_allclose(joined[:, :5].norm(dim=1).detach(), 10, rtol=1e-5)
    joined[:, :5].sum().backward()
    assert scales.length.grad[0] != 0
    assert scales.length.grad[1] == 0
