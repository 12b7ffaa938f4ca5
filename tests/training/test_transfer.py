"""Weights of another competition's run: what is taken over, whatever its folds and classes; what was seen is refused."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from house import TRAIN, make_competition, prepare, stage, write
from safetensors.torch import load_file
from school import job_of

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.training.job import new_network
from pipeline.training.weights import start_from, start_of
from pipeline.training.which import Which


def other(root, rename=(), groups=None, column="patient"):
    """A competition of two folds with images of its own, maybe with other names of classes, and a run of it."""
    data = make_competition(root, "multiclass", "kin", n_train=50)
    for path in (data / "train.csv", data / "sample_submission.csv", data / "solution.csv"):
        frame = pd.read_csv(path)
        frame["target"] = frame["target"].replace(dict(rename))
        if groups is not None and path.stem == "train":
            frame[column] = groups(len(frame))
        frame.to_csv(path, index=False)
    contract = Path("configs/kin/competition.toml")
    text = contract.read_text().replace("n = 3", "n = 2")
    contract.write_text(text + (f'[group]\ncolumn = "{column}"\n' if groups is not None else ""))
    Path("configs/kin/a.toml").write_text(TRAIN.replace("epochs = 3", "epochs = 1"))
    prepare("kin")
    stage("train", "kin/a")


@pytest.mark.parametrize("rename", [[], [("ant", "asp")]])
def test_a_head_of_other_classes_starts_anew(school, rename):
    """As many classes are not the same classes; folds that are not there have a model of some other fold."""
    other(school, rename)
    write("n", 'base = "a"\ninit = "kin/a"\nepochs = 1\n')
    job = job_of("toy/n")
    assert start_of(job, Which((2,))) == Path("runs/kin/a/fold0/model.safetensors")
    for fold, theirs in ((1, 1), (2, 0)):
        network, wanted = new_network(job), load_file(f"runs/kin/a/fold{theirs}/model.safetensors")
        fresh = {name: value.clone() for name, value in network.state_dict().items()}
        start_from(job, Which((fold,)), network)
        for name, value in network.state_dict().items():
            kept = name in ("center", "spread") or (rename and name.startswith("head."))
            assert torch.equal(value, fresh[name] if kept else wanted[name]), name
        assert not torch.equal(fresh["head.weight"], wanted["head.weight"])
    stage("train", "toy/n")
    report = audit("toy/n", refit)
    assert report.findings == []
    assert "init kin/a" in report.tree[1]


def test_near_copies_that_were_learnt_elsewhere_are_refused(school, monkeypatch):
    """Of the images of a fold, in models that did learn from them; where the contract asks for near copies at all."""
    other(school)
    write("n", 'init = "kin/a"\n' + TRAIN.replace("epochs = 3", "epochs = 1"))
    job, kin = job_of("toy/n"), RunFiles("kin/a").competition
    theirs = read_table(kin, read_table_facts(kin))
    mine, known = (rows.paths[rows.folds == fold][0] for rows, fold in ((job.table, 0), (theirs, 1)))
    picture = cv2.imread(f"data/toy/{mine}", cv2.IMREAD_UNCHANGED)
    cv2.imwrite(f"data/kin/{known}", picture // 2 + 9)  # darker: other bytes
    prepare("kin")
    stage("train", "kin/a")
    stage("train", "toy/n")  # identical images alone are looked for
    assert audit("toy/n", refit).findings == []
    contract = Path("configs/toy/competition.toml")
    contract.write_text(contract.read_text() + "near = 4\n")
    prepare("toy")
    shutil.rmtree("runs/toy/n")  # its folds are the same: it would be done
    with pytest.raises(UserError, match=r"'kin/a' has trained on near copies of 1 images .* \(folds.near in") as caught:
        stage("train", "toy/n")
    assert "\n" not in str(caught.value)
    # The audit reads the images, whatever was refused before.
    monkeypatch.setattr("pipeline.images.near.refuse_near_copies", lambda *_: None)
    stage("train", "toy/n")
    (finding,) = audit("toy/n", refit).findings
    assert "fold0 -> init kin/a -> kin/a/fold0: trained on 1 rows that share a group or an image with fold 0" in str(
        finding
    )


def test_groups_that_were_learnt_elsewhere_are_refused(school):
    """Where the same column names them in both contracts; else a name is only a name."""
    frame = pd.read_csv("data/toy/train.csv")
    frame.assign(patient=[f"p{n // 2}" for n in range(len(frame))]).to_csv("data/toy/train.csv", index=False)
    contract = Path("configs/toy/competition.toml")
    contract.write_text(contract.read_text() + '[group]\ncolumn = "patient"\n')
    for path in (Path("folds/toy.csv"), Path("folds/toy.json")):
        path.unlink()
    prepare("toy")
    other(school, groups=lambda n: np.array([f"q{i // 2}" for i in range(n - 2)] + ["p3", "p3"]))
    write("n", 'init = "kin/a"\n' + TRAIN.replace("epochs = 3", "epochs = 1"))
    with pytest.raises(
        UserError, match=r"init = 'kin/a' has trained on 1 groups that are scored here, .* patient 'p3'"
    ):
        stage("train", "toy/n")
    kin = Path("configs/kin/competition.toml")
    kin.write_text(kin.read_text().replace("patient", "person"))
    frame = pd.read_csv("data/kin/train.csv").rename(columns={"patient": "person"})
    frame.to_csv("data/kin/train.csv", index=False)
    prepare("kin")
    stage("train", "kin/a")
    stage("train", "toy/n")
    assert audit("toy/n", refit).findings == []
    # The audit reads the rows, whatever was refused before.
    kin.write_text(kin.read_text().replace("person", "patient"))
    found = [str(finding) for finding in audit("toy/n", refit).findings]
    assert any("share a group or an image with" in finding for finding in found)
