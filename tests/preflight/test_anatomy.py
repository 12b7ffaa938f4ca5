import pytest
import torch
from torch import nn

from pipeline.nets.models import Network
from pipeline.preflight.anatomy import anatomy, facts, middle, seen_from, strides
from pipeline.preflight.findings import LOOK, OK

SMALL = 'name = "cnn"\noptions = { widths = [8, 16] }\n[image]\nsize = 12'


class Plain(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers, self.num_features = nn.Sequential(*layers), 8

    def forward_features(self, x):
        return self.layers(x)


def conv(before, side, **how):
    return nn.Conv2d(before, 8, side, padding=side // 2, **how)


# Kernel k, stride s: the field grows by (k - 1) times all strides before (Araujo 2019).
NETS = {
    "three of 3 see 7": ([conv(1, 3), conv(8, 3), conv(8, 3)], 7),
    "a stride doubles what follows": ([conv(1, 3, stride=2), conv(8, 3)], 7),
    "a pool and two of 3 on each side": (
        [conv(1, 3), nn.ReLU(), conv(8, 3), nn.ReLU(), nn.MaxPool2d(2), conv(8, 3)],
        10,
    ),
    "holes": ([nn.Conv2d(1, 8, 3, padding=4, dilation=4)], 9),
}


@pytest.mark.parametrize("name", NETS)
def test_the_field_by_gradients_is_that_of_theory(name):
    layers, reach = NETS[name]
    torch.manual_seed(0)
    network = Network(Plain(*layers), 1, 3, "avg", 0.0, "half").eval()
    slope, _ = middle(network, torch.rand(4, 1, 33, 33))
    assert seen_from(slope)[0] == (reach, reach)


def test_what_holds_95_percent():
    slope = torch.zeros(9, 9)
    slope[4, 4], slope[3:6, 3:6] = 0.0, 1.0
    slope[0, 0] = 0.01
    assert seen_from(slope) == ((6, 6), 3)
    assert seen_from(torch.zeros(4, 4)) == ((0, 0), 0)


def test_facts_of_the_small_network(material):
    one = material()
    found = anatomy(one)
    convs = [(1, 8, 12), (8, 8, 12), (8, 16, 6), (16, 16, 6)]
    assert found.macs == sum(9 * a * b * side * side for a, b, side in convs) + 16 * 4
    assert found.parameters == found.trainable == sum(p.numel() for p in one.first.parameters())
    assert found.strides == (1, 2)
    assert found.last == (6, 6)
    assert facts(one)[0].verdict == OK


def test_a_network_that_shrinks_to_a_point_or_sees_little_is_told(material):
    one = material()
    torch.manual_seed(0)
    for layers in ([conv(1, 3, stride=12)], [conv(1, 3)]):
        one.first.backbone = Plain(*layers)
        one.first.head = nn.Linear(8, 4)
        assert facts(one)[0].verdict == LOOK


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_networks_of_timm(name, material):
    one = material(old=SMALL, new=f'name = "{name}"\n[image]\nsize = 32')
    found = anatomy(one)
    assert found.macs > 0
    assert found.reach[0] > 1
    assert strides(one.first.eval(), torch.zeros(1, 1, 32, 32))[-1] > 1


@pytest.mark.parametrize("more", ["", "coordinates = true\nhypercolumn = true\n"])
def test_masks_see_from_the_pixel_in_the_middle(more, material):
    found = anatomy(material("segmentation", old="[image]", new=f"{more}[image]"))
    assert found.last == (16, 16)
    assert found.strides[:2] == (1, 2)
    assert found.reach[0] > 8
