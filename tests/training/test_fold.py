"""One model of a run, where the end-to-end tests do not look."""

import json

import numpy as np
import pandas as pd
from house import make_competition, prepare, stage


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
