"""`make lb` leaves a shelf like any other: rows' predicted scores, a forecast, and predictions as good or unchanged."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare, stage

from pipeline.forecast import postprocess, shift
from pipeline.store.errors import UserError
from pipeline.store.files import digest, read_npy

RULES = "pipeline.forecast.postprocess.judge"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A house of each task that asks for it, trained once: two runs with pair models, and a blend."""
    made = {}

    def of(task, metric):
        if (task, metric) not in made:
            root, back = tmp_path_factory.mktemp(task), os.getcwd()
            os.chdir(root)
            make_competition(root, task, metric=metric, n_train=45, n_test=15)
            for name in ("a", "b"):
                path = root / f"configs/toy/{name}.toml"
                path.write_text(
                    "pairs = true\nepochs = 2\n" + path.read_text().replace("epochs = 3", "").replace("epochs = 2", "")
                )
            prepare()
            for name in ("a", "b"):
                stage("train", f"toy/{name}")
            stage("ensemble", "toy/blend")
            os.chdir(back)
            made[task, metric] = root
        return made[task, metric]

    return of


@pytest.fixture
def shelf(trained, tmp_path, monkeypatch):
    """A copy of a trained house to work in."""

    def of(task="multiclass", metric=""):
        shutil.copytree(trained(task, metric), tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return of


def lb(house, text="", below="blend", name="lb"):
    (house / f"configs/toy/{name}.toml").write_text(f'stage = "lb"\nrun = "{below}"\n{text}\n')
    stage("lb", f"toy/{name}")
    folder = house / f"runs/toy/{name}"
    return [json.loads((folder / part).read_text()) for part in ("cv.json", "postprocess.json")]


def adopt(monkeypatch, rule):
    """Make the gate adopt a rule, whatever the evidence."""
    judge = postprocess.judge
    monkeypatch.setattr(RULES, lambda problem, tried, rows: (rule, judge(problem, tried, rows)[1]))


def arrays(house, name):
    parts = ["oof.npy", "test.npy", *(f"fold{k}/test.npy" for k in range(3))]
    return {part: (house / f"runs/toy/{name}/{part}").read_bytes() for part in parts}


def test_every_row_has_a_predicted_score(shelf):
    house = shelf()
    receipt, found = lb(house)
    scores, train = pd.read_csv(house / "runs/toy/lb/scores.csv"), pd.read_csv(house / "data/toy/train.csv")
    assert list(scores) == ["id", "fold", "predicted_score", "low", "high", "actual"]
    assert sorted(scores["id"][:45]) == sorted(train["id"])
    assert (scores["fold"][45:] == -1).all()
    assert (scores["low"] <= scores["predicted_score"] + 1e-9).all()
    assert (scores["predicted_score"] <= scores["high"] + 1e-9).all()
    names = np.array(receipt["classes"])[read_npy(house / "runs/toy/lb/oof.npy").argmax(1)]
    truth = train.set_index("id")["target"][scores["id"][:45]].to_numpy()
    np.testing.assert_array_equal(scores["actual"][:45], names == truth)
    assert scores["actual"][45:].isna().all()
    assert scores["actual"].mean() == pytest.approx(receipt["metrics"]["score"])
    assert set(found["rows"]) >= {"spearman", "auroc", "mae", "coverage", "quintiles", "learner"}
    assert set(found["rules"]) == {"global", "surest", "prior", "shares", "row"}
    assert 0 <= found["shift"]["auc"] <= 1
    for leaf, gaps in found["gaps"].items():
        score = json.loads((house / f"runs/{leaf}/cv.json").read_text())["metrics"]["score"]
        assert gaps["errors"]["train-dev"] == pytest.approx(1 - score)
        assert list(gaps["gaps"]) == ["bias", "variance", "mismatch", "over-tuning"]
        assert gaps["verdict"] in ("over", "under", "fine")
    assert list(found["gaps"]) == ["toy/a", "toy/b"]
    assert (
        found["forecast"]["public"]["90"][0] <= receipt["foretold"]["predicted"] <= found["forecast"]["public"]["90"][1]
    )


def test_the_receipt_says_what_was_fitted_on_what(shelf):
    house = shelf()
    receipt, _ = lb(house, below="a")
    scores, parent = (
        pd.read_csv(house / "runs/toy/lb/scores.csv")[:45],
        json.loads((house / "runs/toy/a/cv.json").read_text()),
    )
    for part in ("predictor", "postprocess"):
        for k in range(3):
            assert receipt["fits"][part][str(k)] == digest(*scores["id"][scores["fold"] != k])
    assert parent["level"] == dict.fromkeys("012", "blind")
    assert receipt["level"] == dict.fromkeys("012", "crossfit")
    assert receipt["parents"] == [{"role": "run", "run": "toy/a", "key": parent["key"], "level": parent["level"]}]
    assert all(receipt[name] == parent[name] for name in ("fold_map", "rows", "test", "classes", "folds"))
    assert not receipt["strict"]


@pytest.mark.parametrize(
    "task, metric",
    [
        ("multiclass", ""),
        ("ordinal", ""),
        ("regression", ""),
    ],
)
def test_where_nothing_is_adopted_nothing_changes(task, metric, shelf, monkeypatch):
    house = shelf(task, metric)
    adopt(monkeypatch, None)
    receipt, _ = lb(house)
    assert receipt["adopted"] is None
    assert arrays(house, "lb") == arrays(house, "blend")
    stage("submit", "toy/lb")
    stage("submit", "toy/blend")
    one, other = (pd.read_csv(house / f"submissions/toy/{name}.csv") for name in ("lb", "blend"))
    if (
        receipt["decision"] is None
        or receipt["decision"]["cuts"] == json.loads((house / "runs/toy/blend/cv.json").read_text())["decision"]["cuts"]
    ):
        pd.testing.assert_frame_equal(one, other)
    assert "toy/lb" in (house / "submissions/ledger.csv").read_text()


@pytest.mark.parametrize(
    "task, metric, rule",
    [
        ("multiclass", "", "row"),
        ("multiclass", "log_loss", "surest"),
        ("ordinal", "", "row"),
        ("binary", "f1", "row"),
        ("multilabel", "", "row"),
        ("regression", "", "row"),
    ],
)
def test_what_is_adopted_is_a_run_like_any_other(task, metric, rule, shelf, monkeypatch):
    house = shelf(task, metric)
    adopt(monkeypatch, rule)
    receipt, found = lb(house)
    assert receipt["adopted"] == rule
    assert receipt["metrics"]["score"] == pytest.approx(found["rules"][rule]["score"], abs=1e-5)
    if receipt["decision"] is not None:
        assert receipt["decision"]["method"] == "fixed"
    for part in ("oof.npy", "test.npy", "fold1/test.npy"):
        p, before = (read_npy(house / f"runs/toy/{name}/{part}") for name in ("lb", "blend"))
        assert p.shape == before.shape
        assert p.dtype == np.float32
        assert np.isfinite(p).all()
        if task not in ("ordinal", "regression"):
            assert p.min() >= 0
            assert p.max() <= 1
    (house / "configs/toy/top.toml").write_text('stage = "ensemble"\nmembers = ["lb", "a"]\nmethod = "uniform"\n')
    stage("ensemble", "toy/top")
    monkeypatch.undo()
    os.chdir(house)
    stage("submit", "toy/top")
    lb(house, below="lb", name="again")


@pytest.mark.parametrize("task, strict", [("multiclass", "true"), ("ordinal", "false")])
def test_neighbours_vote_where_they_are_asked_and_the_gate_has_the_say(task, strict, shelf, monkeypatch):
    house = shelf(task)
    with pytest.raises(UserError, match=r"neighbours = 1000: a model trains on \d+ rows: lower it"):
        lb(house, "neighbours = 1000", name="many")
    with monkeypatch.context() as gate:
        adopt(gate, "neighbours")
        receipt, found = lb(house, f"neighbours = 5\nstrict = {strict}")
    assert receipt["adopted"] == "neighbours"
    assert receipt["metrics"]["score"] == pytest.approx(found["rules"]["neighbours"]["score"], abs=1e-5)
    assert receipt["level"] == dict.fromkeys("012", "crossfit")
    stage("audit", "toy/lb")
    stage("submit", "toy/lb")
    assert len(found["shift"]["most_test_like"]) == 20


def test_strict_mode_says_so(shelf, monkeypatch):
    house = shelf()
    adopt(monkeypatch, None)
    plain = lb(house)[1]
    receipt, found = lb(house, "strict = true", name="strict")
    assert receipt["strict"]
    assert found["strict"]
    assert found["rows"] != plain["rows"]
    assert "row scores (strict" in (house / "runs/toy/strict/run.log").read_text()


def test_strict_mode_needs_models_blind_to_two_folds(shelf):
    house = shelf()
    lb(house)
    with pytest.raises(UserError, match="name the run below it"):
        lb(house, "strict = true", below="lb", name="again")
    path = house / "runs/toy/a/cv.json"
    receipt = json.loads(path.read_text())
    receipt["config"]["pairs"] = False
    path.write_text(json.dumps(receipt))
    with pytest.raises(UserError, match="set pairs = true in configs/toy/a.toml"):
        lb(house, "strict = true", name="strict")


def test_nothing_to_do_touches_only(shelf):
    house = shelf()
    lb(house, below="a")
    path = house / "runs/toy/lb/oof.npy"
    before = path.stat().st_mtime_ns
    lb(house, "# a comment", below="a")
    assert path.stat().st_mtime_ns == before
    lb(house, "seed = 1", below="a")
    assert path.stat().st_mtime_ns != before


def test_twice_the_same_bytes(shelf):
    house = shelf()
    lb(house, below="a")
    first = {
        part: (house / f"runs/toy/lb/{part}").read_bytes() for part in ("scores.csv", "postprocess.json", "oof.npy")
    }
    (house / "runs/toy/lb/cv.json").unlink()
    lb(house, below="a")
    assert first == {part: (house / f"runs/toy/lb/{part}").read_bytes() for part in first}


def test_capacity_is_kept_in_every_group(shelf, monkeypatch):
    house = shelf()
    adopt(monkeypatch, "capacity")
    # Ids are i000 ... i059: ten rows a group, at most four of a class.
    _, found = lb(house, '[capacity]\neach = 4\npattern = "^(i.\\\\d)"')
    assert "capacity" in found["rules"]
    labels = read_npy(house / "runs/toy/lb/test.npy").argmax(1)
    assert max(np.bincount(labels[-10:])) <= 4
    with pytest.raises(UserError, match="group 'i05' has 10 rows, 4 classes at 2 each hold 8"):
        lb(house, '[capacity]\neach = 2\npattern = "^(i.\\\\d)"')
    with pytest.raises(UserError, match="is not a regular expression"):
        lb(house, '[capacity]\npattern = "("')
    with pytest.raises(UserError, match="does not match id 'i0"):
        lb(house, '[capacity]\npattern = "^x"')


def test_the_ledger_moves_the_forecast(shelf):
    house = shelf()
    adopted = lb(house)[1]["forecast"]
    assert adopted["standing"]["pairs"] == 0
    for name in ("a", "b", "blend"):
        stage("submit", f"toy/{name}")
    (house / "runs/toy/lb/cv.json").unlink()
    moved = lb(house)[1]["forecast"]
    assert moved["standing"]["pairs"] == 3
    assert moved["public"] != adopted["public"]
    stage("submit", "toy/lb")
    ledger = pd.read_csv(house / "submissions/ledger.csv").set_index("run").loc["toy/lb"]
    assert ledger["low"] == pytest.approx(moved["public"]["90"][0], abs=1e-5)
    assert ledger["predicted"] == pytest.approx(np.mean(moved["public"]["50"]), abs=1e-5)
    path = house / "submissions/ledger.csv"
    frame = pd.read_csv(path)
    frame["private"] = 0.987
    frame.to_csv(path, index=False)
    (house / "runs/toy/lb/cv.json").unlink()
    assert lb(house)[1]["forecast"] == moved, "private scores are never read"


def test_weighting_by_shift_moves_the_level(shelf, monkeypatch):
    real, house = shift.adversarial, shelf()

    def bent(*given):
        found = real(*given)
        return replace(found, weight=np.linspace(0.5, 2, len(found.weight)))

    monkeypatch.setattr(shift, "adversarial", bent)
    told = [lb(house, f'shift = "{how}"', name=how)[1]["forecast"] for how in ("report", "weight")]
    assert told[0]["shift_auc"] == told[1]["shift_auc"]
    assert told[0]["one"] != told[1]["one"]


def test_wrong_stages_are_refused(shelf):
    house = shelf()
    with pytest.raises(UserError, match='has stage = "train": run make train instead of make lb'):
        stage("lb", "toy/a")
    (house / "configs/toy/p.toml").write_text('stage = "pseudo"\nrun = "a"\n')
    stage("pseudo", "toy/p")
    with pytest.raises(UserError, match="is of stage pseudo; it must be of stage train or ensemble or lb"):
        lb(house, below="p")
