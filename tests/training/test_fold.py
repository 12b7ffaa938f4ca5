"""One model of a run, where the end-to-end tests do not look."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from house import make_competition, prepare, stage
from safetensors.torch import load_file
from school import job_of, write

from pipeline.store.tracking import Tracker
from pipeline.training import fold
from pipeline.training.job import Which


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
    for head in ("classification", "both", "regression"):
        config.write_text(
            text.replace('name = "cnn"', f'name = "cnn"\nhead = "{head}"').replace("epochs = 3", "epochs = 8")
        )
        prepare()
        stage("train", "toy/a")
        run = json.loads((house / "runs/toy/a/cv.json").read_text())
        assert run["metrics"]["score"] > 0.5, head
        assert np.load("runs/toy/a/oof.npy").shape == (60, 1)


def test_sixteen_bits_and_colour(house):
    import cv2

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
