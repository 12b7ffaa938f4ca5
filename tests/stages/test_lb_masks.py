"""`make lb` of runs with masks: an adopted rule to the submission, what the audit finds, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from house import prepare, stage
from mask_house import make_masks

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.competitions import pictures
from pipeline.forecast import mask_fill
from pipeline.forecast.masks import Tried
from pipeline.masks.rle import decode
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, read_json, read_npy, write_json
from pipeline.store.table import read_table


def lb(house, text="", below="a", name="lb"):
    (house / f"configs/toy/{name}.toml").write_text(f'stage = "lb"\nrun = "{below}"\n{text}\n')
    stage("lb", f"toy/{name}")
    return read_json(RunFiles(f"toy/{name}").receipt)


@pytest.fixture
def trained(house):
    make_masks(house, n_train=24, n_test=9)
    prepare()
    stage("train", "toy/a")
    return house


def test_an_adopted_rule_from_shelf_to_submission(trained, monkeypatch):
    judge = Tried.judge
    monkeypatch.setattr(Tried, "judge", lambda self, rows: ("row 0", judge(self, rows)[1]))
    receipt, files, below = lb(trained), RunFiles("toy/lb"), RunFiles("toy/a")
    monkeypatch.setattr(Tried, "judge", judge)
    found = read_json(files.postprocess)
    assert receipt["adopted"] == "row 0"
    assert receipt["maps"] == {"extra": 0, "scale": 1.0}
    assert receipt["decision"]["method"] == receipt["config"]["decision"] == "fixed"
    assert receipt["metrics"]["score"] == pytest.approx(found["rules"]["row 0"]["score"], abs=1e-6)
    scores = pd.read_csv(files.scores)
    assert scores["actual"][:24].mean() == pytest.approx(receipt["metrics"]["score"])
    assert set(np.unique(read_npy(files.oof))) == {0, 1}
    assert not audit("toy/lb", refit).findings
    stage("submit", "toy/lb")
    sent, flat, at = pd.read_csv("submissions/toy/lb.csv"), read_npy(files.test), 0
    for i, cell in zip(sent["id"], sent["rle"], strict=True):
        size = (16, 20) if int(i[1:]) % 3 else (16, 16)
        mine = decode(cell if isinstance(cell, str) else "", *size)
        assert (flat[at : at + mine.size].reshape(size) == mine).all()
        at += mine.size + 1
    before = files.oof.stat().st_mtime_ns
    lb(trained, "# a comment")
    assert files.oof.stat().st_mtime_ns == before
    tampered = np.array(read_npy(files.oof))
    tampered[40:60] = 1 - tampered[40:60]
    np.save(files.oof, tampered)
    receipt["outputs"][str(files.oof)] = digest_file(files.oof)
    write_json(files.receipt, receipt)
    told = str(audit("toy/lb", refit).findings[0])
    assert "masks of oof are not decided as told, for example id" in told
    assert below.oof.exists()


def test_what_is_kept_is_proved_to_be_that_of_the_run_below(trained, monkeypatch):
    judge = Tried.judge
    monkeypatch.setattr(Tried, "judge", lambda self, rows: (None, judge(self, rows)[1]))
    receipt, files = lb(trained), RunFiles("toy/lb")
    assert receipt["adopted"] is None
    for name in ("oof", "test"):
        assert getattr(files, name).read_bytes() == getattr(RunFiles("toy/a"), name).read_bytes()
    assert not audit("toy/lb", refit).findings
    stage("submit", "toy/lb")
    stage("submit", "toy/a")
    one, other = (pd.read_csv(f"submissions/toy/{name}.csv") for name in ("lb", "a"))
    pd.testing.assert_frame_equal(one, other)
    forecast = read_json(files.postprocess)["forecast"]
    assert forecast["match"]["exact"] is False
    assert forecast["models"] == 3
    ids = receipt["fits"]["predictor"]
    receipt["fits"]["predictor"] = ids | {"0": ids["1"]}
    write_json(files.receipt, receipt)
    assert "the predictor of fold 0 was not fitted on the other folds' rows" in str(audit("toy/lb", refit).findings[0])
    receipt["fits"]["predictor"] = ids
    flat = np.array(read_npy(files.test))
    flat[5] = 1 - flat[5]
    np.save(files.test, flat)
    receipt["outputs"][str(files.test)] = digest_file(files.test)
    write_json(files.receipt, receipt)
    told = str(audit("toy/lb", refit).findings[0])
    assert "1 masks of test are not those of toy/a, and yet nothing was adopted" in told


def test_masks_that_go_on_beside_a_training_tile(trained, monkeypatch):
    """From tiles that touch (here told, and those of toy masks go on after one line) to a shelf that the audit proves."""
    monkeypatch.setattr(mask_fill, "STILL", 0.01)
    table, judge = read_table(CompetitionFiles("toy"), read_json(CompetitionFiles("toy").table_receipt)), Tried.judge
    rows = np.concatenate([table.scored, table.test])
    alike = [np.flatnonzero((table.sizes[rows] == size).all(1)) for size in np.unique(table.sizes, axis=0)]
    links = np.array([(a, b, 1, 0) for group in alike for a in group for b in group if a != b])
    monkeypatch.setattr(pictures, "touching", lambda *_: links)
    monkeypatch.setattr(Tried, "judge", lambda self, rows: ("mosaic", judge(self, rows)[1]))
    receipt, files = lb(trained, 'mosaic = "fill"'), RunFiles("toy/lb")
    monkeypatch.setattr(Tried, "judge", judge)
    told = read_json(files.postprocess)
    assert receipt["adopted"] == "mosaic"
    assert {"row 0", "mosaic"} <= set(told["rules"])
    kinds = [action.get("fill", False) for action in told["test"]["actions"]]
    assert any(kinds[which] for which in told["test"]["which"])
    assert str(files.links) in receipt["outputs"]
    assert not audit("toy/lb", refit).findings
    # A tile that is decided by a neighbour of its own fold is found.
    folds = table.folds[rows]
    within = [link for link in links.tolist() if folds[link[0]] == folds[link[1]] >= 0]
    assert within
    monkeypatch.setattr(mask_fill.Beside, "of", leaking(mask_fill.Beside.of))
    monkeypatch.setattr(Tried, "judge", lambda self, rows: ("mosaic", judge(self, rows)[1]))
    lb(trained, 'mosaic = "fill"\nseed = 1')
    monkeypatch.undo()
    monkeypatch.chdir(trained)
    monkeypatch.setattr(mask_fill, "STILL", 0.01)
    assert "masks of oof are not decided as told" in str(audit("toy/lb", refit).findings[0])


def leaking(of):
    """Let every tile be told of by others of its own fold."""
    return lambda truth, links, rows, folds: of(truth, links, rows, np.where(folds >= 0, np.arange(len(folds)), folds))


def test_what_does_not_fit_masks_is_refused(trained):
    with pytest.raises(UserError, match="strict = true is not for a segmentation task: take it out"):
        lb(trained, "strict = true")
    contract = trained / "configs/toy/competition.toml"
    before = contract.read_text()
    contract.write_text(before + "[group]\nmosaic = true\n")
    with pytest.raises(
        UserError, match='mosaic = "fill": group.mosaic = true in .* keeps tiles that touch in one fold'
    ):
        lb(trained, 'mosaic = "fill"')
    contract.write_text(before)
    with pytest.raises(UserError, match=r"\[capacity\] is not for a segmentation task"):
        lb(trained, "[capacity]\neach = 2")
    lb(trained)
    with pytest.raises(UserError, match="'toy/lb' is of stage lb, its masks are decided: name the run below it"):
        lb(trained, below="lb", name="again")
    (trained / "configs/toy/top.toml").write_text('stage = "ensemble"\nmembers = ["lb", "a"]\n')
    with pytest.raises(UserError, match="'toy/lb' is of stage lb, its masks are decided"):
        stage("ensemble", "toy/top")
    assert json.loads(RunFiles("toy/lb").receipt.read_text())["strict"] is False
