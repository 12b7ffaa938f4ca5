import pytest
import torch
from house import make_competition, prepare
from mask_house import make_masks

from pipeline.preflight.material import material_of
from pipeline.stages.check import pose
from pipeline.training.which import Which


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def material(house):
    """The material of fold 0 of toy/a, whose config gets some more lines (or others in their place)."""

    def build(task="multiclass", more="", old="", new="", **given):
        if task == "segmentation":
            make_masks(house, **given)
        else:
            make_competition(house, task, **given)
        path = house / "configs/toy/a.toml"
        path.write_text(path.read_text().replace(old, new) + more)
        prepare()
        return material_of(pose("toy/a"), Which((0,)))

    return build
