"""`make check` on planted faults, and on what is sound."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare
from mask_house import make_masks

from pipeline.stages import check
from pipeline.store.errors import UserError

FAULTY = """
import torch
from pipeline.nets.models import SmallCNN
from pipeline.nets.small_unet import SmallUNet

def zeros(in_chans):
    net = SmallCNN(in_chans, [8, 16])
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.weight)
    return net

def squashed(in_chans, classes):
    net = SmallUNet(in_chans, classes, [8, 16])
    net.segmentation_head = torch.nn.Sequential(net.segmentation_head, torch.nn.Sigmoid())
    return net
"""


def verdicts(run="toy/a"):
    """What a check of the run says, and whether it failed."""
    code = 0
    try:
        check.run(argparse.Namespace(run=run))
    except SystemExit as end:
        code = end.code
    facts = json.loads(Path(f"runs/{run}/check/check.json").read_text())
    assert code == any(fact["verdict"] == "broken" for fact in facts)
    return {fact["name"]: fact["verdict"] for fact in facts}


def write(house, old="", new="", name="a"):
    path = house / f"configs/toy/{name}.toml"
    path.write_text(path.read_text().replace(old, new))


def repaint(house, change):
    for path in house.glob("data/toy/*/*.png"):
        assert cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.mark.parametrize("make", [lambda house: make_competition(house, "multiclass"), make_masks])
def test_a_sound_run_passes_and_leaves_its_shelf_alone(make, house, capsys):
    make(house)
    prepare()
    found = verdicts()
    assert "broken" not in found.values()
    assert list(found)[:4] == ["images", "copies", "labels", "normalisation"]
    assert {"network", "signals", "first loss", "head", "learning rate", "overfit", "cost"} <= set(found)
    assert sorted(p.name for p in house.glob("runs/toy/a/**/*") if p.is_file()) == [
        "check.json",
        "index.html",
        "seen.png",
    ]
    assert "Conv2d" in (house / "runs/toy/a/check/index.html").read_text()
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in found)


def lr(house):
    write(house, "lr = 1e-2", "lr = 10.0")


def shuffled(house):
    frame = pd.read_csv(house / "data/toy/train.csv")
    frame["target"] = frame["target"].sample(frac=1, random_state=1).to_numpy()
    frame.to_csv(house / "data/toy/train.csv", index=False)


def dead(house):
    (house / "faulty.py").write_text(FAULTY)
    write(house, 'name = "cnn"\noptions = { widths = [8, 16] }', 'name = "faulty:zeros"')


def dark(house):  # 8 bits in files of 16
    write(house, '"grey"', '"grey"\ndepth = 16', "competition")
    repaint(house, lambda image: image.astype(np.uint16))


def constant(house):
    rng = np.random.default_rng(0)
    repaint(house, lambda image: np.full_like(image, rng.integers(256)))


@pytest.mark.parametrize(
    "plant, who",
    [(lr, "learning rate"), (shuffled, "labels"), (dead, "signals"), (dark, "normalisation"), (constant, "images")],
)
def test_a_planted_fault_is_caught_by_its_own_check(plant, who, house, monkeypatch):
    monkeypatch.syspath_prepend(house)
    make_competition(house, "multiclass")
    plant(house)
    prepare()
    found = verdicts()
    assert found[who] == "broken"
    others = {"dead": {"overfit"}, "constant": {"labels", "copies", "overfit"}, "dark": set()}
    allowed = {who} | others.get(plant.__name__, set())
    assert {name for name, verdict in found.items() if verdict == "broken"} <= allowed, found


def test_an_activation_at_the_head_of_masks_is_caught(house, monkeypatch):
    monkeypatch.syspath_prepend(house)
    make_masks(house)
    (house / "faulty.py").write_text(FAULTY)
    write(house, 'name = "small_unet"\noptions = { widths = [8, 16] }', 'name = "faulty:squashed"')
    prepare()
    found = verdicts()
    assert found["head"] == "broken"


def test_only_runs_that_train_a_network_are_checked(house):
    make_competition(house, "multiclass")
    prepare()
    with pytest.raises(UserError, match="stage = 'ensemble'"):
        verdicts("toy/blend")
    (house / "configs/toy/c.toml").write_text('fit = "linear"\n')
    with pytest.raises(UserError, match="fit = 'linear'"):
        verdicts("toy/c")


def test_a_student_is_checked_before_its_teacher_is_trained(house):
    make_competition(house, "multiclass")
    prepare()
    (house / "configs/toy/p.toml").write_text('stage = "pseudo"\nrun = "a"\n')
    (house / "configs/toy/s.toml").write_text('base = "a"\npseudo = "p"\n')
    job = check.pose("toy/s")
    assert job.config.pseudo is None
    assert len(job.models) == 6  # each fold in two halves


@pytest.mark.parametrize(
    "init, said", [("b", "run make train COMP=toy NAME=b first"), ("other/run", "init = 'other/run'")]
)
def test_first_weights_that_are_not_there_yet_are_told(init, said, house):
    make_competition(house, "multiclass")
    prepare()
    (house / "configs/toy/s.toml").write_text(f'base = "a"\ninit = "{init}"\n')
    with pytest.raises(UserError, match=said):
        check.pose("toy/s")
