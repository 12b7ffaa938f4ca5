"""Masks from folder to submission through the real Make targets."""

import cv2
import numpy as np
import pandas as pd
import pytest
from mask_house import make_masks

from pipeline.masks.rle import decode
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import digest_file, read_json, read_npy, write_json


def read(cell, size):
    return decode(cell if isinstance(cell, str) else "", *size)


def iou(one, other):
    either = (one | other).sum()
    return (one & other).sum() / either if either else 1.0


def test_folder_to_submission(make, house):
    data = make_masks(house)
    # Weights that differ from fold to fold, so that each fold chooses by maps of its own.
    (house / "configs/toy/blend.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "convex"\n')
    blended(make, data)
    post_processed(make, data)
    refitted(make)


def blended(make, data):
    said = make("submit", "COMP=toy", "NAME=blend").stderr
    assert "audited: 3 runs, 6 models" in said
    sent, truth = (pd.read_csv(p) for p in ("submissions/toy/blend.csv", data / "solution.csv"))
    assert list(sent.columns) == ["id", "rle"]
    assert sent["id"].tolist() == pd.read_csv(data / "sample_submission.csv")["id"].tolist()
    ious = []
    for i, mine, right in zip(sent["id"], sent["rle"], truth["rle"], strict=True):
        size = cv2.imread(str(data / f"test/{i}.png"), 0).shape
        ious.append(iou(read(mine, size), read(right, size)))
    private = (truth["Usage"] == "Private").to_numpy()
    ledger = pd.read_csv("submissions/ledger.csv")
    np.testing.assert_allclose(ledger["private"][0], np.mean(np.array(ious)[private]), atol=1e-6)
    assert ledger["private"][0] > 0.6
    receipt = read_json(RunFiles("toy/blend").receipt)
    assert set(receipt["level"].values()) == {"crossfit"}
    assert receipt["metrics"]["score"] > 0.6
    assert receipt["metrics"]["size_matched"]["models"] == 3
    again = make("submit", "COMP=toy", "NAME=blend")
    assert "Nothing to be done" in again.stdout


def post_processed(make, data):
    said = make("submit", "COMP=toy", "NAME=final").stderr
    assert "audited: 4 runs, 6 models" in said
    files, below = RunFiles("toy/final"), RunFiles("toy/blend")
    receipt, found = read_json(files.receipt), read_json(files.postprocess)
    scores = pd.read_csv(files.scores)
    train = pd.read_csv(data / "train.csv")
    assert scores["actual"][:30].mean() == pytest.approx(receipt["metrics"]["score"])
    assert set(scores["id"][:30]) == set(train["id"])
    assert scores["actual"][30:].isna().all()
    assert (scores["low"] <= scores["predicted_score"]).all()
    assert (scores["predicted_score"] <= scores["high"]).all()
    low, high = found["forecast"]["private"]["90"]
    ledger = pd.read_csv("submissions/ledger.csv")
    row = ledger.set_index("run").loc["toy/final"]
    assert low < row["private"] < high
    assert row["low"] < row["predicted"] < row["high"]
    assert set(receipt["level"].values()) == {"crossfit"}
    assert set(receipt["fits"]["predictor"]) == {"0", "1", "2"}
    assert set(found["rules"]) == {"row 0", "row 0.02", "row 0.05"}
    assert 0 <= found["shift"]["auc"] <= 1
    if receipt["adopted"] is None:
        assert files.oof.read_bytes() == below.oof.read_bytes()
        assert receipt["decision"] == read_json(below.receipt)["decision"]


def refitted(make):
    said = make("submit", "COMP=toy", "NAME=all").stderr
    assert "is inherited: nothing validates this fit" in said
    files, parent = RunFiles("toy/all"), read_json(RunFiles("toy/blend").receipt)
    receipt = read_json(files.receipt)
    assert receipt["metrics"]["validated"] is False
    assert receipt["metrics"]["score"] == parent["metrics"]["score"]
    assert receipt["decision"] == parent["decision"]
    flats = [read_npy(files.whole(f"{name}-0").test).astype(float) for name in "ab"]
    mixed = sum(parent["weights"][f"toy/{name}"] * flat for name, flat in zip("ab", flats, strict=True))
    np.testing.assert_allclose(read_npy(files.test), mixed, atol=1e-3)
    assert len(np.unique(read_npy(files.whole("a-0").rows))) == 30
    assert pd.read_csv("submissions/ledger.csv").set_index("run").loc["toy/all", "private"] > 0.5
    for path, pixel in ((files.test, 7), (files.fold(0).test, 9)):
        flat = np.array(read_npy(path))
        flat[pixel] = 1 - flat[pixel]
        np.save(path, flat)
        assert str(path) in receipt["outputs"]
        receipt["outputs"][str(path)] = digest_file(path)
    write_json(files.receipt, receipt)
    said = make("audit", "COMP=toy", "NAME=all", check=False).stdout
    assert "are not the mean over the seeds" in said
    assert "the test predictions of seed 0 are not those of its models" in said


def test_the_holdout_is_scored_and_looks_are_counted(house):
    from house import prepare, stage

    data = make_masks(house, extra="holdout = 0.2\n")
    prepare()
    stage("train", "toy/a")
    found = read_json(RunFiles("toy/a").receipt)["metrics"]["holdout"]
    assert found["looks"] == 1
    assert found["n"] == (pd.read_csv("folds/toy.csv")["fold"] == -2).sum() > 3
    assert 0 < found["score"] <= 1
    assert data.exists()
