"""One model of a run, where the end-to-end tests do not look."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from house import make_competition, prepare, stage, write
from safetensors.torch import load_file, save_file
from school import job_of

from pipeline.store.artifacts import RunFiles
from pipeline.store.config import load_competition
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.store.runs import load_run
from pipeline.store.tracking import Tracker
from pipeline.training import fold
from pipeline.training.layers import freeze_for
from pipeline.training.which import Which


class Caught(Exception):
    pass


@pytest.fixture
def begin(monkeypatch):
    """The network and the settings that a model begins its training with."""

    def run(name, which):
        def catch(network, objective, **settings):
            raise Caught(
                {key: value.clone() for key, value in network.state_dict().items()}, settings | {"network": network}
            )

        with monkeypatch.context() as patch:
            patch.setattr(fold, "fit", catch)
            with pytest.raises(Caught) as caught:
                fold.fit_fold(job_of(name, which.half is not None), which, Tracker(None))
        return caught.value.args

    return run


def test_every_model_has_its_own_start(school, begin):
    models = [Which((0,)), Which((1,)), Which((1, 2)), Which((1,), 0), Which((1,), 1)]
    begun = [begin("toy/s" if which.half is not None else "toy/b", which) for which in models]
    assert [settings["seed"] for _, settings in begun] == [
        which.seed(w) for which, w in zip(models, (1, 1, 1, 0, 0), strict=True)
    ]
    heads = [state["head.weight"] for state, _ in begun]
    assert not any(torch.equal(one, other) for i, one in enumerate(heads) for other in heads[:i])
    again, _ = begin("toy/b", Which((0,)))
    assert torch.equal(again["head.weight"], heads[0])
    assert len({str(settings["checkpoint"]) for _, settings in begun}) == len(models)


def test_training_starts_from_the_weights_of_init(school, begin):
    write("n", 'base = "a"\ninit = "b"\n')
    state, _ = begin("toy/n", Which((2,)))
    wanted = load_file("runs/toy/b/fold2/model.safetensors")
    assert all(torch.equal(state[name], wanted[name]) for name in wanted if name not in ("center", "spread"))


def test_the_head_starts_at_the_shares_of_its_own_training_rows(school, begin):
    write("n", 'base = "a"\nmodel.head_bias = "prior"\nmodel.head_init = "orthogonal"\n')
    job = job_of("toy/n")
    labels, folds = job.table.y[job.table.scored][:, 0].astype(int), job.table.folds[job.table.scored]
    for k in (0, 1):
        state, _ = begin("toy/n", Which((k,)))
        shares = np.bincount(labels[folds != k], minlength=4) / (folds != k).sum()
        np.testing.assert_allclose(state["head.bias"].softmax(0), shares, rtol=1e-5)
        rows = state["head.weight"]
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-5, rtol=0)
    assert not begin("toy/a", Which((0,)))[0]["head.bias"].any()


def test_pixels_are_normalised_by_the_rows_that_are_trained_on(school, begin):
    write("n", 'base = "s"\n[image]\nnormalize = "train"\n')
    for which in (Which((1,), 0), Which((2,), 1)):
        state, settings = begin("toy/n", which)
        job = job_of("toy/n", True)
        images = job.images(job.table.scored)[0]
        mine = np.flatnonzero(~np.isin(job.table.folds[job.table.scored], which.held_out))
        assert sorted(settings["lessons"].gold) == list(mine)
        assert state["mean"].item() == pytest.approx((images[mine] / 255).mean(), rel=1e-5)
        assert state["std"].item() == pytest.approx((images[mine] / 255).std(), rel=1e-5)
        assert state["mean"].item() != pytest.approx((np.asarray(images) / 255).mean(), rel=1e-6)  # of all rows


def test_what_is_measured_is_kept_and_used(school):
    write("n", 'base = "a"\n[image]\nnormalize = "train"\n')
    stage("train", "toy/n")
    job = job_of("toy/n")
    for k in range(3):
        kept = load_file(f"runs/toy/n/fold{k}/model.safetensors")
        images = job.images(job.table.scored)[0][job.table.folds[job.table.scored] != k]
        assert kept["mean"].item() == pytest.approx((images / 255).mean(), rel=1e-5)
    write("m", 'base = "n"\ninit = "n"\n')
    assert "mean" in load_file("runs/toy/n/fold0/model.safetensors")
    assert "mean" not in load_file("runs/toy/a/fold0/model.safetensors")


def test_a_start_brings_no_statistics_of_other_rows(school, begin):
    write("n", 'base = "a"\n[image]\nnormalize = "train"\n')
    stage("train", "toy/n")
    path = "runs/toy/n/fold2/model.safetensors"
    other = load_file(path)
    other["mean"] += 0.25
    save_file(other, path)
    write("m", 'base = "n"\ninit = "n"\n')
    state, _ = begin("toy/m", Which((2,)))
    assert state["mean"].item() == pytest.approx(other["mean"].item() - 0.25)
    assert torch.equal(state["head.weight"], other["head.weight"])


@pytest.mark.parametrize("count, chosen", [(60, "gradual"), (12, "head"), (400, "none")])
def test_images_per_class_choose_what_is_frozen(count, chosen, school, begin, monkeypatch):
    """40 rows of 4 classes: 10 images each; and as if there were fewer, or more, classes."""
    write("n", 'base = "a"\ninit = "b"\noptim.freeze = "auto"\n')
    seen = []
    monkeypatch.setattr(
        fold, "freeze_for", lambda y, classes: seen.append((len(y), classes)) or freeze_for(y, 600 // count)
    )
    _, settings = begin("toy/n", Which((0,)))
    assert seen == [(40, 4)]
    assert settings["freeze"] == {10: "head", 50: "head", 1: "none"}.get(600 // count, chosen)


def test_the_receipt_tells_what_was_chosen_to_be_frozen(school):
    write("n", 'base = "a"\ninit = "b"\noptim.freeze = "auto"\n')
    stage("train", "toy/n")
    for k in range(3):
        assert json.loads((school / f"runs/toy/n/fold{k}/fold.json").read_text())["freeze"] == "gradual"
    assert "freeze" not in json.loads((school / "runs/toy/a/fold0/fold.json").read_text())


def test_settings_reach_the_loop(school, begin):
    write("n", 'base = "a"\ninit = "b"\n[optim]\nfreeze = "gradual"\nlayer_decay = 0.7\nschedule = "step"\n'
          'milestones = [0.5]\ngamma = 0.2\npower = 3.0\n[average]\nsoup = 2\n[augment]\nmixup = 0.3\n')  # fmt: skip
    _, settings = begin("toy/n", Which((0,)))
    wanted = {
        "freeze": "gradual",
        "layer_decay": 0.7,
        "schedule": "step",
        "milestones": [0.5],
        "gamma": 0.2,
        "power": 3.0,
    }
    wanted |= {"soup": 2, "ema": 0.0, "swa": 0.0, "mixup": 0.3, "cutmix": 0.0, "lr": 0.01, "batch_size": 16}
    assert {key: settings[key] for key in wanted} == wanted


SWITCHES = {
    "resnet crop": '[image]\nsize = 14\ncrop = 12\n[augment]\nrecipe = "resnet"\n[predict]\ntta = "10crop"\n',
    "image": '[image]\nnormalize = "image"\n[predict]\ntta = "scales"\n[model]\npool = "catavgmax"\n',
    "frozen": 'init = "b"\n[optim]\nfreeze = "gradual"\nlayer_decay = 0.8\nschedule = "polynomial"\n[average]\nsoup = 1\n',
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_from_config_to_shelf(school, switch):
    write("n", f'base = "a"\nepochs = 4\n{SWITCHES[switch]}')
    stage("train", "toy/n")
    oof = np.load("runs/toy/n/oof.npy")
    assert oof.shape == (60, 4)
    np.testing.assert_allclose(oof.sum(1), 1, atol=1e-5)
    features = np.load("runs/toy/n/fold0/emb.npy")
    assert features.shape == (84, 32 if switch == "image" else 16)
    if switch != "resnet crop":  # of whose 12 pixels a third is cut away in training
        assert json.loads(RunFiles("toy/n").receipt.read_text())["metrics"]["score"] > 0.5


def test_groups_from_config_to_shelf(house):
    """Instruments, every other a third as bright: a network that is told of them may as well see one."""
    data = make_competition(house, "multiclass")
    for path in data.glob("t*/*[02468].png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 3)
    contract = house / "configs/toy/competition.toml"
    contract.write_text(contract.read_text() + "[group]\npattern = '(\\d)$'\n")
    prepare()
    write("n", 'base = "a"\n[image]\nnormalize = "group"\n')
    stage("train", "toy/n")
    job = job_of("toy/n")
    for rows in (job.table.scored, job.table.test):
        images, groups = job.images(rows)[0], job.table.groups[rows]
        for group in np.unique(groups[groups != ""]):
            at = np.flatnonzero(groups == group)
            np.testing.assert_allclose(images.stats[at, 0], (images[at] / 255).mean(), rtol=1e-5)
            np.testing.assert_allclose(images.stats[at, 1], (images[at] / 255).std(), rtol=1e-5)
    assert json.loads(RunFiles("toy/n").receipt.read_text())["metrics"]["score"] > 0.4
    # The group of a test row is part of its prediction, and of nothing that is fitted.
    config, contract = load_run("toy/n"), load_competition("toy")
    facts = read_table_facts(RunFiles("toy/n").competition)
    other = facts | {"outputs": {"table": "other"}}
    keys, changed = (train_keys(config, contract, known) for known in (facts, other))
    assert [a == b for a, b in zip(keys, changed, strict=True)] == [True, False, False]
    plain = load_run("toy/a")
    assert train_keys(plain, contract, facts) == train_keys(plain, contract, other)
    # Students learn from scored and test rows alike.
    write("p", 'stage = "pseudo"\nrun = "n"\n')
    stage("pseudo", "toy/p")
    write("s", 'base = "n"\npseudo = "p"\n')
    stage("train", "toy/s")
    assert np.load("runs/toy/s/oof.npy").shape == (60, 4)


def test_the_lessons_reach_the_loop(school, begin):
    write("n", 'base = "s"\nbatch_size = 10\n[student]\nshare = 0.3\n')
    _, settings = begin("toy/n", Which((1,), 1))
    assert settings["lessons"].share == 0.3
    assert len(settings["lessons"].gold) == 40
    assert len(settings["lessons"].extra)
    assert (
        len(settings["images"]) == len(settings["targets"]) == len(settings["weights"]) == len(settings["names"]) == 84
    )


def test_the_class_of_indicators_is_never_predicted(school, begin):
    """The curve, by which an epoch may be chosen, is of the real classes."""
    write("i", 'base = "a"\nindicators = true\n')
    _, settings = begin("toy/i", Which((0,)))
    scores = []
    for bias in (-50.0, 50.0):
        with torch.no_grad():
            settings["network"].head.bias[4] = bias
        scores.append(settings["evaluate"](settings["network"])["valid_accuracy"])
    assert scores[0] == scores[1] > 0


def test_two_regression_targets(house):
    data = make_competition(house, "regression")
    for name in ("train", "sample_submission", "solution"):
        frame = pd.read_csv(data / f"{name}.csv", dtype={"id": str})
        frame.assign(other=100 - frame["target"] * 3).to_csv(data / f"{name}.csv", index=False)
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text().replace('target = "target"', 'target = ["target", "other"]'))
    prepare()
    stage("train", "toy/a")
    stage("submit", "toy/a")
    oof = np.load("runs/toy/a/oof.npy")
    assert oof.shape == (60, 2)
    # Each target is standardised by itself and comes back in its own units.
    assert abs(oof[:, 0].mean() - 12.5) < 1.5
    assert abs(oof[:, 1].mean() - 62.5) < 4.5
    sent = pd.read_csv("submissions/toy/a.csv")
    assert list(sent.columns) == ["id", "target", "other"]


def test_ordinal_heads(house):
    make_competition(house, "ordinal")
    config = house / "configs/toy/a.toml"
    text = config.read_text()
    for head in ("classification", "both", "cumulative", "all", "regression"):
        config.write_text(
            text.replace('name = "cnn"', f'name = "cnn"\nhead = "{head}"').replace("epochs = 3", "epochs = 8")
        )
        prepare()
        stage("train", "toy/a")
        run = json.loads((house / "runs/toy/a/cv.json").read_text())
        assert run["metrics"]["score"] > 0.5, head
        assert np.load("runs/toy/a/oof.npy").shape == (60, 1)


def test_sixteen_bits_and_colour(house):
    data = make_competition(house, "binary")
    for path in data.glob("t*/*.png"):
        grey = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257
        cv2.imwrite(str(path), np.dstack([grey, grey // 2, grey // 3]))
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text().replace('channels = "grey"', 'channels = "rgb"\ndepth = 16'))
    run = house / "configs/toy/a.toml"
    run.write_text(run.read_text().replace('recipe = "none"', 'recipe = "heavy"').replace("epochs = 3", "epochs = 8"))
    prepare()
    stage("train", "toy/a")
    (cache,) = (p for p in house.glob("cache/toy/images/*.npy") if len(np.load(p)) == 60)
    assert np.load(cache).dtype == np.uint16
    assert json.loads((house / "runs/toy/a/cv.json").read_text())["metrics"]["score"] > 0.7
