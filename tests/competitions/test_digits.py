import cv2
import numpy as np
import pandas as pd
import pytest
from house import stage

from pipeline.store.errors import UserError

CONTRACT = 'task = "multiclass"\nmetric = "accuracy"\nbuilt_in = "digits"\nid = "id"\ntarget = "label"\n'
IMAGES = '[images]\npattern = "{split}_images/{id}.png"\nchannels = "grey"\n'


def contract(house, text):
    (house / "configs/digits").mkdir(parents=True)
    (house / "configs/digits/competition.toml").write_text(text)


def test_built_in_competition(house):
    contract(house, CONTRACT + IMAGES)
    stage("data", "digits")
    data = house / "data/digits"
    train, sample, solution = (pd.read_csv(data / f"{n}.csv") for n in ("train", "sample_submission", "solution"))
    assert train["label"].value_counts().tolist() == [10] * 10
    assert len(sample) == len(solution) == 1697
    assert (sample["id"] == solution["id"]).all()
    assert not set(train["id"]) & set(sample["id"])
    assert (sample["label"] == 0).all()
    assert 0.25 < (solution["Usage"] == "Public").mean() < 0.35
    image = cv2.imread(str(data / f"train_images/{train['id'][0]:04d}.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (8, 8)
    assert image.max() == 255
    before = {p: p.read_bytes() for p in data.rglob("*.*")}
    stage("data", "digits")
    (house / "data/digits").rename(house / "old")
    stage("data", "digits")
    assert {p: p.read_bytes() for p in data.rglob("*.*")} == before
    stage("folds", "digits")
    assert np.bincount(pd.read_csv("folds/digits.csv")["fold"][:100]).tolist() == [20] * 5


def test_unknown_built_in(house):
    contract(house, CONTRACT.replace('"digits"', '"digit"') + IMAGES)
    with pytest.raises(UserError, match="unknown built-in competition 'digit'; did you mean 'digits'"):
        stage("data", "digits")
    assert not (house / "data/digits").exists()
