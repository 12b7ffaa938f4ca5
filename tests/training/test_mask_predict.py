import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.images.ragged import Ragged, Stretch
from pipeline.masks.maps import Maps, layout
from pipeline.nets.machine import Machine
from pipeline.nets.mask_objective import Heads
from pipeline.training.mask_predict import MASK_TTA, Look, predicted, stretches

CPU = Machine("cpu", "fp32", 1)


class Pixels(nn.Module):
    """A network that answers each pixel by itself: its logit is what is seen, so that the way back must be exact."""

    def __init__(self, extra=0, stride=4, classes=1):
        super().__init__()
        self.heads, self.stride, self.shapes = Heads(classes, extra), stride, []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        x = x.clamp(0.01, 0.99)
        maps = torch.logit(x[:, : self.heads.maps])
        return torch.cat([maps.flatten(1), torch.logit(x[:, : self.heads.classes].amax((2, 3)))], 1)


def ragged(sizes, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    # Smooth, so that scales lose little.
    shown = []
    for h, w in sizes:
        coarse = torch.tensor(rng.random((1, channels, 3, 3)))
        fine = functional.interpolate(coarse, (h, w), mode="bicubic", align_corners=True).clamp(0.05, 0.95)
        shown.append((fine[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    flat = np.concatenate([image.ravel() for image in shown])
    return Ragged([Stretch(flat, np.array(sizes), channels)]), [image / 255 for image in shown]


def look(**changes):
    return Look(**({"exclusive": False, "fit": "pad", "size": (16, 16), "batch_size": 2} | changes))


def all_of(network, images, sizes, how):
    return list(predicted(network, images, np.arange(len(images)), np.array(sizes), how, CPU))


SIZES = [(16, 16), (9, 13), (16, 7)]


@pytest.mark.parametrize("tta", ["none", "hflip", "d4"])
@pytest.mark.parametrize("fit", ["pad", "tiles"])
def test_every_view_is_undone_exactly(tta, fit):
    sizes = SIZES if fit == "pad" else [(40, 23), *SIZES]
    images, shown = ragged(sizes)
    network = Pixels(extra=1)
    found = all_of(network, images, sizes, look(fit=fit, tta=tta))
    for (maps, present), image in zip(found, shown, strict=True):
        np.testing.assert_allclose(maps.transpose(1, 2, 0), image[:, :, :2], atol=1e-3 if fit == "tiles" else 1e-5)
        assert present[0] == pytest.approx(image[:, :, 0].max(), abs=1e-5)
    assert len({shape[1:] for shape in network.shapes}) == 1


def test_resized_maps_are_of_the_image_again():
    sizes = [(16, 16), (32, 24), (11, 13)]
    images, shown = ragged(sizes)
    for (maps, _), image in zip(all_of(Pixels(), images, sizes, look(fit="resize")), shown, strict=True):
        assert maps.shape == (1, *image.shape[:2])
        np.testing.assert_allclose(maps[0], image[:, :, 0], atol=0.06)
    same, whole = ragged([(16, 16)])
    ((maps, _),) = all_of(Pixels(), same, [(16, 16)], look(fit="resize"))
    np.testing.assert_allclose(maps[0], whole[0][:, :, 0], atol=1e-6)


def test_scales_see_sizes_that_the_network_takes():
    images, shown = ragged([(16, 16)])
    network = Pixels()
    ((maps, _),) = all_of(network, images, [(16, 16)], look(tta="scales"))
    assert {shape[2:] for shape in network.shapes} == {(16, 16), (12, 12), (20, 20)}
    np.testing.assert_allclose(maps[0], shown[0][:, :, 0], atol=0.05)


def test_views_turn_the_network():
    """A network that answers by place: the mean over the symmetries is what is symmetric of it."""

    class Ramp(Pixels):
        def forward(self, x):
            p = torch.linspace(0.1, 0.9, x.shape[3]).expand(len(x), 1, *x.shape[2:])
            return torch.cat([torch.logit(p).flatten(1), torch.zeros(len(x), 1)], 1)

    images, _ = ragged([(16, 16)])
    ((maps, _),) = all_of(Ramp(), images, [(16, 16)], look(tta="hflip"))
    np.testing.assert_allclose(maps, 0.5, atol=1e-6)
    ((maps, _),) = all_of(Ramp(), images, [(16, 16)], look(tta="d4"))
    np.testing.assert_allclose(maps, 0.5, atol=1e-6)
    assert len(MASK_TTA["d4"](4, (16, 16))) == 8


def test_batches_do_not_matter():
    images, _ = ragged([(16, 16)] * 5)
    torch.manual_seed(0)
    whole = all_of(Pixels(), images, [(16, 16)] * 5, look(batch_size=64))
    split = all_of(Pixels(), images, [(16, 16)] * 5, look(batch_size=2))
    for (a, p), (b, q) in zip(whole, split, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert p == q


@pytest.mark.parametrize("fit, scale", [("pad", 1.0), ("pad", 0.5), ("tiles", 1.0), ("tiles", 0.5), ("resize", 0.5)])
def test_the_shelf_holds_stretches(fit, scale):
    sizes = SIZES if fit == "pad" else [(40, 24), (16, 16)]
    images, shown = ragged(sizes)
    plan = layout(np.array(sizes), 1, 1, scale)
    rows = np.arange(len(sizes))
    flat = np.concatenate(list(stretches(Pixels(extra=1), images, rows, plan.sizes, look(fit=fit, scale=scale), CPU)))
    assert flat.dtype == np.float16
    maps = Maps(flat, plan)
    for i, image in enumerate(shown):
        height, width = (int(np.ceil(side * scale)) for side in image.shape[:2])
        assert maps[i].shape == (2, height, width)
        if scale == 1 and fit != "resize":
            np.testing.assert_allclose(maps[i].transpose(1, 2, 0), image[:, :, :2], atol=2e-3)
        else:
            np.testing.assert_allclose(maps[i].mean((1, 2)), image[:, :, :2].mean((0, 1)), atol=0.03)
        assert maps.present(i)[0] == pytest.approx(image[:, :, 0].max(), abs=2e-3)


def test_exclusive_classes_sum_to_one():
    images, _ = ragged([(16, 16)])
    ((maps, _),) = all_of(Pixels(classes=3), images, [(16, 16)], look(exclusive=True, tta="hflip"))
    np.testing.assert_allclose(maps.sum(0), 1, atol=1e-5)
