"""What naive recipes report and what they are worth: their students score fold k's labels that they were told."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import draw, make_competition, prepare, stage

from pipeline.store.files import digest_file


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A competition without anything to learn: random labels, and a near-copy of each train image in the test set."""
    import cv2

    root = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        data = make_competition(root, "binary", n_train=48, n_test=48, metric="accuracy")
        rng = np.random.default_rng(1)
        base = rng.random((48, 9))
        for split, first in (("train", 0), ("test", 48)):
            for j in range(48):
                cv2.imwrite(str(data / split / f"i{first + j:03d}.png"), draw(base[j], rng))
        table = pd.read_csv(data / "train.csv")
        table.assign(target=rng.permutation(["no", "yes"] * 24)).to_csv(data / "train.csv", index=False)
        config = root / "configs/toy"
        text = (config / "a.toml").read_text().replace("epochs = 3", "epochs = 60").replace("[8, 16]", "[16, 32]")
        (config / "a.toml").write_text(text)
        (config / "pseudo.toml").write_text('stage = "pseudo"\nrun = "a"\nhalves = false\n')
        (config / "student.toml").write_text('base = "a"\npseudo = "pseudo"\n')
        prepare()
        stage("train", "toy/a")
        stage("pseudo", "toy/pseudo")
        stage("train", "toy/student")
        yield root


def accuracy(run):
    return json.loads(Path(f"runs/toy/{run}/cv.json").read_text())["metrics"]["fixed"]


def test_ours_gains_nothing_where_nothing_is_to_be_learnt(noise, monkeypatch):
    monkeypatch.chdir(noise)
    assert abs(accuracy("student") - 0.5) < 0.22  # three standard errors of a coin thrown 48 times


def test_the_naive_teacher_tells_the_labels_that_are_scored(noise, monkeypatch):
    monkeypatch.chdir(noise)
    # The same labels for every student, by all folds' models together: what most published pipelines do.
    path = Path("runs/toy/pseudo/pseudo.csv")
    honest = path.read_text()
    ids = [f"i{j:03d}" for j in range(48, 96)]
    together = (np.load("runs/toy/a/test.npy")[:, 0] > 0.5).astype(float)
    rows = {"id": ids, "repeat": 0, "half": -1, "weight": 1.0, "t0": together}
    pd.concat([pd.DataFrame({**rows, "fold": k}) for k in range(3)]).to_csv(path, index=False)
    receipt = Path("runs/toy/pseudo/cv.json")
    known = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(known | {"outputs": {str(path): digest_file(path)}}))
    (noise / "configs/toy/naive.toml").write_text('base = "a"\npseudo = "pseudo"\n')
    stage("train", "toy/naive")
    assert accuracy("naive") > 0.72, "the test rows told the student the labels of its own fold"
    path.write_text(honest)
    receipt.write_text(json.dumps(known))
