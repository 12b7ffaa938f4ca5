import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.nets.mask_nets import OWN, PUBLISHED, Extras, build_masks, coordinates, hypercolumn
from pipeline.nets.mask_objective import SIZES
from pipeline.nets.trunk import set_activation, with_drop_path
from pipeline.store.errors import UserError

SMALL = {"widths": [4, 6, 8]}


def build(name="small_unet", options=None, **changes):
    given = {
        "encoder": "resnet18", "weights": "none", "channels": 3, "size": (32, 32), "classes": 2, "extra": 0,
        "presence": False, "sizes": 0, "deep": False, "extras": Extras(),
    }  # fmt: skip
    torch.manual_seed(0)
    options = (SMALL if name == "small_unet" else {}) if options is None else options
    return build_masks(name, options=options, **(given | changes))


def test_scores_lie_as_heads_say():
    net = build(extra=1, presence=True, sizes=SIZES, deep=True, extras=Extras(coordinates=True, hypercolumn=True))
    assert net.heads.deep == (2,)
    x = torch.rand(3, 3, 32, 32)
    scores = net.train()(x)
    assert scores.shape == (3, 3 * 1024 + 2 + SIZES + 2 * 256)
    maps, presence, sizes, deep = net.heads.split(scores, 32, 32)
    assert (maps.shape, presence.shape, sizes.shape, deep[0].shape) == (
        (3, 3, 32, 32), (3, 2), (3, 4), (3, 2, 16, 16)
    )  # fmt: skip
    assert net.eval()(x).shape == (3, 3 * 1024 + 2)
    assert net(torch.rand(1, 3, 64, 48)).shape == (1, 3 * 64 * 48 + 2)  # any size that its stride divides
    net.train()
    loss = net(x).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_without_a_head_every_class_is_there():
    scores = build().eval()(torch.rand(2, 3, 32, 32))
    assert scores[:, -2:].sigmoid().half().eq(1).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
    side = 128 if name == "pan" else 64  # its pyramid divides by two three times more
    net = build(name, size=(side, side), extra=1, presence=True)
    assert net.eval()(torch.rand(2, 3, side, side)).shape == (2, 3 * side * side + 2)
    assert net.stride in (8, 16, 32)


def test_the_encoder_of_a_network_of_masks_may_lose_its_depth_and_change_its_activations():
    net = with_drop_path(lambda more: build("unet", more, encoder="tu-test_convnext"), {}, 0.2, "unet")
    assert max(m.drop_prob for m in net.backbone.modules() if type(m).__name__ == "DropPath") == pytest.approx(0.2)
    set_activation(net, "silu", "unet")
    kinds = {type(m).__name__ for m in net.modules()}
    assert "SiLU" in kinds
    assert not kinds & {"ReLU", "GELU"}


@pytest.mark.parametrize("encoder", ["tu-test_resnet", "test_resnet", "mobilenet_v2"])
def test_encoders_of_either_library(encoder):
    net = build("unet", encoder=encoder, channels=4, options={"decoder_channels": [32, 16, 8, 8, 4]})
    assert net.eval()(torch.rand(1, 4, 32, 32)).shape == (1, 2 * 1024 + 2)


def test_squeeze_and_excitation_by_options():
    net = build("unet", options={"decoder_attention_type": "scse"})
    assert "SCSE" in str(net.decoder)


def unevenness(layer):
    """How uneven the inside of a constant image becomes under a kernel of ones (Odena 2016): sd over mean."""
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(float(p.ndim > 1))
        inside = layer(torch.ones(1, layer.in_channels, 12, 12))[:, :, 6:-6, 6:-6]
    return (inside.std() / inside.mean()).item()


def test_no_decoder_draws_checkerboards():
    assert unevenness(nn.ConvTranspose2d(1, 1, 3, 2)) == pytest.approx(0.478, abs=0.01)
    found = 0
    for name in [*PUBLISHED, *OWN]:
        net = build(name, size=(128, 128))
        for module in net.decoder.modules():
            if isinstance(module, nn.ConvTranspose2d):
                assert unevenness(module) == pytest.approx(0, abs=1e-5), name
                found += 1
    assert found  # linknet's
    ways = [build("unet", options={"decoder_interpolation": way} if way else {}) for way in (None, "bilinear")]
    assert [way.decoder.blocks[0].interpolation_mode for way in ways] == ["nearest", "bilinear"]


def test_deep_supervision_of_the_nested_decoder():
    net = build("unetplusplus", deep=True, extras=Extras(hypercolumn=True))
    assert net.heads.deep == (2, 2, 2, 2)
    scores = net.train()(torch.rand(2, 3, 32, 32))
    deep = net.heads.split(scores, 32, 32)[3]
    assert [d.shape for d in deep] == [(2, 2, 16, 16)] * 4
    # Each comes from its own block: what is finest has the most below it.
    for k, part in enumerate(deep):
        net.zero_grad()
        part.sum().backward(retain_graph=True)
        touched = {n for n, p in net.decoder.named_parameters() if p.grad is not None and p.grad.any()}
        assert any(n.startswith(f"blocks.x_{k}_3.") for n in touched)
        assert not any(n.startswith(f"blocks.x_{k - 1}_3.") for n in touched)


def test_a_copy_catches_its_own_features():
    """EMA and SWA are deep copies: the hooks must not stay with the first network."""
    net = build(deep=True)
    twin = copy.deepcopy(net).train()
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(2)
    x = torch.rand(2, 3, 32, 32)
    ours, theirs = net.train()(x), twin(x)
    assert ours.shape == theirs.shape
    assert net.caught == twin.caught == []
    assert not torch.allclose(ours[:, -512:], theirs[:, -512:])


def test_coordinates():
    found = coordinates(torch.zeros(2, 1, 3, 5))
    assert found[1, 0, :, 0].tolist() == [-1, 0, 1]
    assert found[0, 1, 0].tolist() == [-1, -0.5, 0, 0.5, 1]


def test_hypercolumn_has_length_one():
    decoded, features = (
        torch.randn(2, 4, 8, 8),
        [torch.randn(2, 6, 4, 4), torch.randn(2, 0, 4, 4), torch.randn(2, 5, 2, 2)],
    )
    found = hypercolumn(decoded, features)
    assert found.shape == (2, 15, 8, 8)
    for part in found.split([4, 6, 5], 1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(2, 8, 8))


def test_building_twice_is_the_same():
    one, two = build("unet"), build("unet")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    statistics = one.state_dict()["decoder.blocks.0.conv1.1.running_mean"]
    assert not statistics.any()  # the image that was measured left no trace


def test_normalisation_is_part_of_the_network():
    x = torch.rand(2, 3, 32, 32)
    net = build(extras=Extras(normalize="image")).eval()
    torch.testing.assert_close(net(x), net(0.5 * x + 0.1), atol=1e-4, rtol=1e-3)
    net = build(extras=Extras(normalize="train")).eval()
    assert "mean" in net.state_dict()
    assert "mean" not in build().state_dict()


@pytest.mark.parametrize("name, changes, words", [
    ("unett", {}, "unet"),
    ("unet", {"encoder": "resnet81"}, "resnet18"),
    ("unet", {"encoder": "tu-nothing"}, "model.encoder"),
    ("unetplusplus", {"size": (50, 32)}, "50 x 32 images: sides must be multiples of 32"),
    ("pan", {"size": (64, 64)}, "64 x 64 images: .*too small"),
    ("small_unet", {"options": {"width": [4]}}, "model.options"),
    ("small_unet", {"options": {"widths": [4]}}, "two levels"),
    ("small_unet", {"weights": "pretrained"}, "no weights"),
    ("unet", {"options": {"attention": 1}}, "no 'attention'.*decoder_attention_type"),
    ("unet", {"weights": "absent.pt"}, "absent.pt does not exist"),
    ("fpn", {"deep": True}, "unetplusplus"),
])  # fmt: skip
def test_refusals(name, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        build(name, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_of_an_encoder(tmp_path, ending):
    net = build("unet")
    state = {f"encoder.{n}": (v + 1 if v.is_floating_point() else v) for n, v in net.backbone.state_dict().items()}
    path = tmp_path / f"w.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    again = build("unet", weights=str(path))
    assert all(torch.equal(v, state[f"encoder.{n}"]) for n, v in again.backbone.state_dict().items())
    few = {n: v for n, v in state.items() if "layer4" not in n}
    save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(UserError, match="belongs to another model"):
        build("unet", weights=str(tmp_path / "few.safetensors"))


def test_small_unet_is_small():
    assert sum(p.numel() for p in build(options={"widths": [16, 32, 64, 128]}).parameters()) < 500_000
    assert np.isfinite(build().eval()(torch.zeros(1, 3, 32, 32)).detach().numpy()).all()
