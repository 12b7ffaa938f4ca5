import time

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SelectAdaptivePool2d
from torch import nn

from pipeline.nets.models import build, outputs_of, to_prediction
from pipeline.nets.pooling import POOLS, GeM, average, maximum
from pipeline.nets.small_cnn import SmallCNN
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

TIMM = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]
HEAD = {"outputs": 5, "pool": "avg", "dropout": 0.0, "normalize": "imagenet"}


def make(name="cnn", channels=3, size=(32, 32), weights="none", options=None, **changes):
    return build(name, weights=weights, options=options or {}, channels=channels, size=size, **{**HEAD, **changes})


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (48, 80)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["cnn", *TIMM])
def test_builds(name, channels, size):
    net = make(name, channels, size)
    assert net.training
    assert net.backbone.training
    x = torch.rand(2, channels, *size)
    assert net(x).shape == (2, 5)
    assert net.features(x).shape == (2, net.backbone.num_features)


def test_small_images():
    assert make(channels=1, size=(8, 8))(torch.rand(3, 1, 8, 8)).shape == (3, 5)
    assert make(channels=1, size=(8, 8), options={"widths": [4, 6]}).head.in_features == 6


def test_import_path():
    assert isinstance(make("pipeline.nets.small_cnn:SmallCNN", options={"widths": [4]}).backbone, SmallCNN)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", ["cnn", "test_vit"])
def test_pool_is_used(name, pool):
    net = make(name, pool=pool).eval()
    x = torch.rand(2, 3, 32, 32)
    maps = net.backbone.forward_features((x - net.mean) / net.std)
    if maps.ndim == 3:
        assert maps.shape[1] == 1 + (32 // 16) ** 2
        maps = maps[:, 1:].transpose(1, 2)  # without the class token
    both = torch.cat([average(maps), maximum(maps)], 1)
    wanted = both if pool == "catavgmax" else {"avg": average, "max": maximum, "gem": GeM(3.0)}[pool](maps)
    if pool == "catavgmax" and name == "cnn":
        torch.testing.assert_close(both, SelectAdaptivePool2d(pool_type=pool, flatten=True)(maps))
    torch.testing.assert_close(net.features(x), wanted, rtol=0, atol=1e-6)
    assert net(x).shape == (2, 5)


@pytest.mark.parametrize("pool", POOLS)
def test_the_same_weights_take_images_of_any_size(pool):
    net = make("test_resnet", pool=pool).eval()
    assert {net(torch.rand(2, 3, side, side + 32)).shape for side in (32, 96, 160)} == {(2, 5)}


@pytest.mark.parametrize("name", ["cnn", "test_resnet"])
def test_batch_norm_knows_its_batch_in_training_alone(name):
    net, x = make(name), torch.rand(4, 3, 32, 32)
    other = torch.cat([x[:1], x[1:] * 0.2])
    assert not torch.allclose(net(x)[0], net(other)[0], rtol=1e-3)
    net.eval()
    torch.testing.assert_close(net(x)[0], net(other)[0])


def test_norm_layers_by_options():
    net = make("test_resnet", options={"norm_layer": "groupnorm1"})
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))  # in training too


class Mirror(nn.Module):
    def __init__(self, in_chans, last=False):
        super().__init__()
        self.num_features, self.last = in_chans, last

    def forward_features(self, x):
        return x.permute(0, 2, 3, 1) if self.last else x


def test_channels_may_come_last():
    net = make(f"{__name__}:Mirror", size=(6, 7), normalize="half", options={"last": True})
    x = torch.rand(2, 3, 6, 7)
    torch.testing.assert_close(net.features(x), (x * 2 - 1).mean((2, 3)))


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("normalize, mean, std", [
    ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("half", (0.5,) * 3, (0.5,) * 3),
])  # fmt: skip
def test_normalisation(normalize, mean, std, channels):
    net = make(f"{__name__}:Mirror", channels=channels, normalize=normalize)
    center, spread = (np.array([*values, sum(values) / 3])[{1: [3], 3: [0, 1, 2], 4: [0, 1, 2, 3], 6: [3] * 6}[channels]]
                      for values in (mean, std))  # fmt: skip
    x = torch.rand(2, channels, 4, 4)
    np.testing.assert_allclose(net.features(x), (x.mean((2, 3)) - center) / spread, rtol=1e-4, atol=1e-6)
    assert "mean" not in net.state_dict()
    assert {"center", "spread"} <= set(net.state_dict())


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (13, 11)])
def test_a_network_sees_the_centre(size):
    net = make(f"{__name__}:Mirror", size=(7, 7), normalize="half", crop=7)
    x = torch.rand(2, 3, *size)
    top, left = (size[0] - 7) // 2, (size[1] - 7) // 2
    torch.testing.assert_close(net.features(x), (x[:, :, top : top + 7, left : left + 7] * 2 - 1).mean((2, 3)))
    assert torch.equal(net.features(x[:, :, top : top + 7, left : left + 7]), net.features(x))


def test_what_was_measured_belongs_to_the_weights():
    net, other = (make(f"{__name__}:Mirror", size=(4, 4), normalize="train") for _ in range(2))
    assert (net.mean == 0).all()
    net.mean, net.std = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5
    other.load_state_dict(net.state_dict())
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(other.features(x), ((x - net.mean) / net.std).mean((2, 3)))


def test_head_is_kaiming():
    net = make("test_resnet", outputs=400)
    assert net.head.weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.02)
    assert not net.head.bias.any()


def test_dropout():
    net = make(dropout=0.5, options={"widths": [64]})
    net.backbone.eval()
    x = torch.rand(4, 3, 32, 32)
    features = net.features(x)
    assert torch.equal(features, net.features(x))  # features come before it
    assert features.count_nonzero() > 0.9 * features.numel()
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    assert torch.equal(net(x), net.head(features))


@pytest.mark.parametrize(
    "name, near", [("test_resnett", "test_resnet"), ("cn", "cnn"), ("resnet18.a1_in", "resnet18.a1_in1k")]
)
def test_unknown_model(name, near):
    with pytest.raises(UserError, match=rf"{name!r}; did you mean '{near}'"):
        make(name)


@pytest.mark.parametrize("options, word", [
    ({"widhts": [4]}, "widhts"),
    ({"name": 1}, "name"),
    ({"builder": 1}, "builder"),
    ({"in_chans": 1}, "3 x 32 x 32"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["cnn", "test_resnet"])
def test_bad_options(name, options, word):
    with pytest.raises(UserError, match=name) as caught:
        make(name, options=options)
    assert word in str(caught.value)


def test_options_reach_timm():
    assert isinstance(make("test_resnet", options={"act_layer": "silu"}).backbone.act1, nn.SiLU)


@pytest.mark.parametrize(
    "name, size", [("cnn", (2, 2)), ("cnn", (64, 3)), ("test_vit", (8, 8)), ("test_vit", (33, 32))]
)
def test_image_too_small(name, size):
    with pytest.raises(UserError, match=f"{name}.* cannot take 3 x {size[0]} x {size[1]}|{name}.* cannot be built"):
        make(name, size=size)


def test_missing_weights_file():
    with pytest.raises(UserError, match=r"model\.weights: nowhere/a\.pth does not exist"):
        make("test_resnet", weights="nowhere/a.pth")


@pytest.mark.parametrize("weights", ["pretrained", "a.pth"])
def test_own_models_have_no_weights(weights):
    with pytest.raises(UserError, match="only timm models have weights"):
        make("cnn", weights=weights)


def test_pretrained_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"weights of 'test_resnet' cannot be loaded .*model\.weights"):
        make("test_resnet", weights="pretrained")
    assert time.monotonic() - started < 5


@pytest.fixture
def saved(tmp_path):
    def save(name, ending, **options):
        torch.manual_seed(99)
        source = timm.create_model(name, num_classes=7, **options)
        for buffer in source.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        path = tmp_path / f"weights.{ending}"
        save_file(source.state_dict(), path) if ending == "safetensors" else torch.save(source.state_dict(), path)
        return source, str(path)

    return save


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("name", TIMM)
def test_weights_file_is_loaded(name, ending, saved):
    source, path = saved(name, ending)
    torch.manual_seed(1)
    loaded, wanted = make(name, weights=path).backbone.state_dict(), source.state_dict()
    # Position embeddings are resampled to the image; the classifier stays behind.
    kept = [key for key in loaded if loaded[key].shape == wanted[key].shape]
    assert set(loaded) - set(kept) <= {"pos_embed"}
    assert all(torch.equal(loaded[key], wanted[key]) for key in kept)


def test_weights_file_adapts_to_grey(saved):
    source, path = saved("test_resnet", "pth")
    first = make("test_resnet", channels=1, weights=path).backbone.conv1[0].weight
    torch.testing.assert_close(first, source.conv1[0].weight.sum(1, keepdim=True))


@pytest.mark.parametrize("content", ["resnet", "stranger", "text"])
def test_wrong_weights_file(content, saved, tmp_path):
    path = tmp_path / "weights.pth"
    if content == "resnet":
        saved("test_resnet", "pth")
    elif content == "stranger":
        torch.save({"a.weight": torch.zeros(3, 3)}, path)
    else:
        path.write_text("hello")
    with pytest.raises(UserError, match="weights"):
        make("test_efficientnet", weights=str(path))


def test_random_stream_does_not_depend_on_loading(saved):
    _, path = saved("test_resnet", "pth")
    heads = []
    for weights in ("none", path):
        torch.manual_seed(5)
        heads.append(make("test_resnet", weights=weights).head.weight)
    assert torch.equal(*heads)


@pytest.mark.parametrize("task, head, width", [
    ("binary", "classification", 1), ("multiclass", "classification", 6), ("multilabel", "classification", 6),
    ("ordinal", "regression", 1), ("ordinal", "classification", 6), ("ordinal", "both", 7), ("ordinal", "cumulative", 5),
    ("ordinal", "all", 12),
    ("regression", "regression", 6),
])  # fmt: skip
def test_outputs_and_predictions(task, head, width):
    assert outputs_of(TASKS[task], head, 6) == width
    z = np.random.default_rng(0).normal(0, 2, (9, width))
    count = 6 if task == "regression" else 1
    center, spread = np.arange(count) + 2.5, np.arange(count) * 0.5 + 1.5
    softmax = np.exp(z[:, :6]) / np.exp(z[:, :6]).sum(1, keepdims=True)
    grade = (softmax @ np.arange(min(6, width)))[:, None]
    wanted = {
        "binary": 1 / (1 + np.exp(-z)), "multilabel": 1 / (1 + np.exp(-z)), "multiclass": softmax,
        "regression": z * spread + center,
        "ordinal": {"regression": z * spread + center, "classification": grade,
                    "all": (grade + (1 / (1 + np.exp(-z[:, 6:-1]))).sum(1, keepdims=True)
                            + z[:, -1:] * spread + center) / 3,
                    "cumulative": (1 / (1 + np.exp(-z))).sum(1, keepdims=True),
                    "both": (grade + z[:, -1:] * spread + center) / 2}[head],
    }[task]  # fmt: skip
    tensors = [torch.from_numpy(array).float() for array in (z, center, spread)]
    out = to_prediction(TASKS[task], head, *tensors)
    assert out.shape == (9, TASKS[task].width(6))
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
    rough = to_prediction(TASKS[task], head, tensors[0].bfloat16(), *tensors[1:])
    assert rough.dtype == torch.float32
