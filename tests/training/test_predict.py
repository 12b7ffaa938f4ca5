import numpy as np
import pytest
import torch
from files import grouped
from torch import nn
from torchvision.transforms.functional import five_crop, ten_crop

from pipeline.nets.machine import Machine
from pipeline.nets.models import build, central, to_prediction
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS
from pipeline.training.predict import TTA, embed, predict, scores, views_of

MANY = TASKS["multiclass"]


class Everywhere(nn.Module):
    """Sees the mean of an image only, so no turn can change it."""

    num_features = 3

    def __init__(self, in_chans):
        super().__init__()

    def forward_features(self, x):
        return x


class Somewhere(Everywhere):
    """Sees the left half and the top third more than the rest."""

    def forward_features(self, x):
        down = torch.linspace(3, 1, x.shape[2]).view(1, 1, -1, 1)
        across = torch.linspace(5, -2, x.shape[3])
        return x * down * across


def network(kind="Somewhere", size=(9, 9), outputs=4, dropout=0.5, crop=0):
    head = {"outputs": outputs, "pool": "avg", "dropout": dropout, "normalize": "half", "crop": crop}
    return build(f"{__name__}:{kind}", weights="none", options={}, channels=3, size=size, **head)


def pictures(count=7, size=(9, 9), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (count, *size, 3)).astype(dtype)


def look(net, images, machine, tta="none", rows=None, task=MANY, head="classification", batch_size=3):
    rows = np.arange(len(images)) if rows is None else rows
    return predict(net, task, head, images, rows, machine=machine, tta=tta, batch_size=batch_size)[0]


def by_hand(net, images):
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(images).astype(np.float32)).permute(0, 3, 1, 2) / 255
        return net.eval()(x).softmax(1).numpy()


SYMMETRIES = [
    lambda a: a, lambda a: a[:, ::-1], lambda a: a[:, :, ::-1], lambda a: a[:, ::-1, ::-1],
    lambda a: a.swapaxes(1, 2), lambda a: a.swapaxes(1, 2)[:, ::-1], lambda a: a.swapaxes(1, 2)[:, :, ::-1],
    lambda a: a.swapaxes(1, 2)[:, ::-1, ::-1],
]  # fmt: skip


@pytest.mark.parametrize("tta, views", [("none", SYMMETRIES[:1]), ("hflip", SYMMETRIES[:3:2]), ("d4", SYMMETRIES)])
def test_tta_is_the_mean_of_views(tta, views, machine):
    net, images = network(), pictures()
    each = np.stack([by_hand(net, view(images)) for view in views])
    np.testing.assert_allclose(look(net, images, machine, tta), each.mean(0), atol=1e-6)
    assert len({np.round(view, 5).tobytes() for view in each}) == len(views) == len(TTA[tta])


@pytest.mark.parametrize("tta", ["hflip", "d4"])
def test_tta_of_an_invariant_model_is_none(tta, machine):
    net, images = network("Everywhere"), pictures()
    plain = look(net, images, machine)
    np.testing.assert_allclose(look(net, images, machine, tta), plain, atol=1e-6)
    assert np.ptp(plain, 0).min() > 1e-3


def test_hflip_takes_images_that_are_not_square(machine):
    net, images = network(size=(6, 9)), pictures(size=(6, 9))
    mean = (by_hand(net, images) + by_hand(net, images[:, :, ::-1])) / 2
    np.testing.assert_allclose(look(net, images, machine, "hflip"), mean, atol=1e-6)


@pytest.mark.parametrize("tta, views", [("none", SYMMETRIES[:1]), ("hflip", SYMMETRIES[:3:2]), ("d4", SYMMETRIES)])
def test_views_are_of_the_centre(tta, views, machine):
    net, images = network(crop=6, size=(6, 6)), pictures(size=(9, 12))
    centre = images[:, 1:7, 3:9]
    each = np.stack([by_hand(net, view(centre)) for view in views])
    np.testing.assert_allclose(look(net, images, machine, tta), each.mean(0), atol=1e-6)


@pytest.mark.parametrize("tta", ["5crop", "10crop"])
def test_crops_are_the_corners_and_the_centre(tta, machine):
    net, images = network(crop=6, size=(6, 6)), pictures(size=(10, 12))
    parts = [images[:, :6, :6], images[:, :6, -6:], images[:, -6:, :6], images[:, -6:, -6:], images[:, 2:8, 3:9]]
    parts += [part[:, :, ::-1] for part in parts] if tta == "10crop" else []
    each = np.stack([by_hand(net, part) for part in parts])
    np.testing.assert_allclose(look(net, images, machine, tta), each.mean(0), atol=1e-6)
    spread = predict(net, MANY, "classification", images, np.arange(7), machine=machine, tta=tta, batch_size=3)[1]
    np.testing.assert_allclose(spread, each.std(0).mean(1), atol=1e-6)
    # What TorchVision cuts out, corner by corner.
    theirs = (five_crop if tta == "5crop" else ten_crop)(torch.from_numpy(images).permute(0, 3, 1, 2), [6, 6])
    ours = [view(torch.from_numpy(images).permute(0, 3, 1, 2)) for view in views_of(tta, 6)]
    assert len(ours) == len(theirs) == len(parts)
    assert {part.numpy().tobytes() for part in ours} == {part.numpy().tobytes() for part in theirs}


@pytest.mark.parametrize("crop, size", [(0, (20, 20)), (0, (20, 30)), (16, (20, 24)), (20, (20, 20)), (15, (20, 21))])
def test_scales(crop, size):
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    image = torch.from_numpy(np.stack([(y + 0.5) / size[0] - 0.5, (x + 0.5) / size[1] - 0.5]))[None]
    seen = (crop, crop) if crop else size
    for view, scale in zip(views_of("scales", crop), (0.9, 1.0, 1.1), strict=True):
        out = view(image)
        assert out.shape == (1, 2, *seen)
        assert out.isfinite().all()
        # Near the middle a pixel further is one over the scale of the image further, and the middle stays.
        inner = out[0, :, seen[0] // 4 : -seen[0] // 4, seen[1] // 4 : -seen[1] // 4]
        for axis, whole in enumerate(size):
            steps = inner[axis].diff(dim=axis)
            grown = round(whole * scale) / whole
            assert steps.mean().item() == pytest.approx(1 / whole / grown, rel=0.02)
            middle = out[0, axis].mean(1 - axis)
            half = seen[axis] / 2 - 0.5
            value = np.interp(half, np.arange(seen[axis]), middle.numpy())
            assert value == pytest.approx(0, abs=0.75 / whole)
    plain = views_of("scales", crop)[1](image)
    assert torch.equal(plain, central(image, crop))


def test_scales_of_any_network(machine):
    for name in ("cnn", "test_vit"):
        net = build(name, weights="none", options={}, channels=3, size=(32, 32), outputs=4, pool="avg", dropout=0.5,
                    normalize="half")  # fmt: skip
        out = look(net, pictures(size=(32, 32)), machine, "scales")
        assert out.shape == (7, 4)
        assert not np.allclose(out, look(net, pictures(size=(32, 32)), machine), atol=1e-7)


def test_groups_are_normalised_row_by_row(machine):
    """Brightness of a group is nothing to a network that is told of groups, in predictions and embeddings."""
    images, groups = pictures() // 2, np.array(list("ababcab"))
    brighter = images.copy()
    brighter[groups == "a"] += 60
    net = network()
    plain, other = (
        look(net, grouped(part, groups, 3, ()), machine, rows=np.array([4, 0, 6])) for part in (images, brighter)
    )
    np.testing.assert_allclose(plain, other, atol=1e-4)
    assert not np.allclose(look(net, images, machine), look(net, brighter, machine), atol=1e-3)
    features = [
        torch.cat([part for part, _ in embed(net, grouped(part, groups, 3, ()), machine=machine, batch_size=3)])
        for part in (images, brighter)
    ]
    torch.testing.assert_close(*features, atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize("tta, near", [("d5", "d4"), ("hflips", "hflip"), ("non", "none")])
def test_unknown_tta(tta, near, machine):
    with pytest.raises(UserError, match=f"predict.tta '{tta}'; did you mean '{near}'"):
        look(network(), pictures(), machine, tta)


@pytest.mark.parametrize("batch_size", [1, 2, 6, 7, 100])
@pytest.mark.parametrize("name", ["cnn", "test_vit"])
def test_batch_size_does_not_matter(name, batch_size, machine):
    torch.manual_seed(0)
    net = build(name, weights="none", options={}, channels=3, size=(32, 32), outputs=4, pool="avg", dropout=0.5,
                normalize="half")  # fmt: skip
    images = pictures(size=(32, 32))
    whole = look(net, images, machine, batch_size=7)
    part = look(net, images, machine, batch_size=batch_size)
    np.testing.assert_allclose(part, whole, atol=1e-6)


def test_rows_are_in_order(machine):
    net, images = network(), pictures()
    rows = np.array([5, 0, 3])
    np.testing.assert_allclose(look(net, images, machine, rows=rows), by_hand(net, images)[rows], atol=1e-6)


def test_scores_are_raw_and_of_evaluation(machine):
    net, images = network().train(), pictures()
    raw = scores(net, images, np.arange(7), machine=machine, batch_size=2)
    assert not net.training
    assert (raw.dtype, raw.shape, raw.requires_grad) == (torch.float32, (7, 4), False)
    np.testing.assert_allclose(raw.softmax(1), by_hand(net, images), atol=1e-6)


@pytest.mark.parametrize("task, head, outputs", [
    ("binary", "classification", 1), ("multilabel", "classification", 4), ("ordinal", "both", 5),
    ("regression", "regression", 2),
])  # fmt: skip
def test_tasks(task, head, outputs, machine):
    net, images = network(outputs=outputs), pictures()
    values = 2 if task == "regression" else 1
    net.center, net.spread = torch.arange(values) + 4.0, torch.arange(values) + 2.0
    views = [
        scores(net, view, np.arange(7), machine=machine, batch_size=9) for view in (images, images[:, :, ::-1].copy())
    ]
    each = [to_prediction(TASKS[task], head, raw, net.center, net.spread) for raw in views]
    out = look(net, images, machine, "hflip", task=TASKS[task], head=head)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (each[0] + each[1]) / 2, atol=1e-5)
    if task == "regression":
        raw = (views[0] + views[1]).numpy() / 2
        np.testing.assert_allclose(out, raw * [2, 3] + [4, 5], atol=1e-5)


def test_depth_does_not_matter(machine):
    net, images = network(), pictures()
    np.testing.assert_allclose(
        look(net, images.astype(np.uint16) * 257, machine), look(net, images, machine), atol=1e-6
    )


def test_half_precision(machine):
    net, images = network(), pictures()
    rough = look(net, images, Machine("cpu", "bf16", 1))
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, look(net, images, machine), atol=0.02)
    assert not (rough == look(net, images, machine)).all()


def test_memory_mapped_images_stay_on_disk(tmp_path, machine):
    net, images = network(), pictures()
    np.save(tmp_path / "a.npy", images)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")  # not writable; torch would warn of it
    np.testing.assert_allclose(look(net, mapped, machine), by_hand(net, images), atol=1e-6)
