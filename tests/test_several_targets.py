"""Several targets of different tasks, from folder to submission; every score against scikit-learn's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from house import prepare, stage
from miniatures import SEVERAL, pets, save

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.competitions.solution import leaderboard, read_solution
from pipeline.competitions.submission import fill, read_back, read_format
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.tasks import task_of

FIVE = (
    SEVERAL.replace('id = "id"\n', 'id = "id"\nweight = "w"\n')
    .replace("[images]", '[[targets]]\ntarget = "target_grade"\ntask = "ordinal"\nmetric = "quadratic_kappa"\n[images]')
    .replace("[images]", '[[targets]]\ntarget = "target_sex"\ntask = "binary"\nmetric = "roc_auc"\n[images]')
    .replace(
        "[images]",
        '[[targets]]\ntarget = "target_tags"\ntask = "multilabel"\nmetric = "f1_macro"\nseparator = " "\n[images]',
    )
    .replace("n = 3", "n = 3\nholdout = 0.2")
    + '[group]\ncolumn = "owner"\n'
)
KINDS = ["cat", "dog", "rat"]


def contract(change):
    path = Path("configs/pets/competition.toml")
    path.write_text(change(path.read_text()))


def receipt(name):
    return read_json(RunFiles(f"pets/{name}").receipt)


def table():
    files = CompetitionFiles("pets")
    return read_table(files, read_table_facts(files))


def prepare_and_train():
    prepare("pets")
    stage("train", "pets/a")


def hidden(data):
    return pd.read_csv(data / "solution.csv", dtype={"id": str}, keep_default_na=False)


def test_two_targets_to_submission(make, house):
    data = pets(house)
    make("submit", "COMP=pets", "NAME=blend")
    assert "OK" in make("audit", "COMP=pets", "NAME=blend").stdout
    rows = pd.read_csv(data / "train.csv").set_index("id").loc[table().ids[table().scored]]
    for name in ("a", "b", "blend"):
        oof, told = np.load(RunFiles(f"pets/{name}").oof), receipt(name)["metrics"]
        assert oof.shape == (90, 4)
        np.testing.assert_allclose(oof[:, :3].sum(1), 1, rtol=1e-5)
        right = sk.accuracy_score(rows["target_kind"], np.array(KINDS)[oof[:, :3].argmax(1)])
        lost = sk.mean_absolute_error(rows["target_age"], oof[:, 3])
        assert told["score"] == pytest.approx((2 * right - lost) / 3, rel=1e-6)
        assert told["parts"]["target_kind"] == {"metric": "accuracy", "score": pytest.approx(right)}
        assert told["parts"]["target_age"] == {"metric": "mae", "score": pytest.approx(lost, rel=1e-6)}
        assert "size_matched" not in told
    assert right > 0.8
    assert lost < 2.2  # 2.5 where nothing is learnt
    sent = pd.read_csv("submissions/pets/blend.csv", dtype={"id": str})
    assert list(sent) == ["id", "target_kind", "target_age"]
    true = hidden(data)
    assert (sent["id"] == true["id"]).all()
    right = sk.accuracy_score(true["target_kind"], sent["target_kind"])
    lost = sk.mean_absolute_error(true["target_age"], sent["target_age"])
    ledger = pd.read_csv("submissions/ledger.csv")
    assert ledger["private"][0] == pytest.approx((2 * right - lost) / 3, rel=1e-6)
    models = [RunFiles("pets/a").fold(k).model.stat().st_mtime_ns for k in range(3)]
    assert "trained on" not in make("submit", "COMP=pets", "NAME=blend").stderr
    assert models == [RunFiles("pets/a").fold(k).model.stat().st_mtime_ns for k in range(3)]


def test_five_targets_with_weights_groups_and_a_holdout(house):
    data = pets(house, FIVE)
    prepare("pets")
    here = table()
    assert here.classes == [
        "target_kind=cat", "target_kind=dog", "target_kind=rat", "target_age", "target_grade=0", "target_grade=1",
        "target_grade=2", "target_sex=0", "target_sex=1", "target_tags=cat", "target_tags=old",
    ]  # fmt: skip
    balance = read_json(CompetitionFiles("pets").folds_receipt)["balance"]
    assert max(balance["target_kind=cat"]) - min(balance["target_kind=cat"]) <= 3
    assert "target_age bin 0" in balance
    assert "target_tags (no label)" in balance
    stage("train", "pets/a")
    more = (
        'select = "best"\nloss.smoothing = 0.1\naugment.mixup = 0.4\npredict.tta = "hflip"\nimage.normalize = "group"\n'
    )
    Path("configs/pets/b.toml").write_text(f'base = "a"\nseed = 1\n{more}')
    stage("train", "pets/b")
    Path("configs/pets/blend.toml").write_text(
        'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "greedy"\nbags = 2\nsteps = 4\n'
    )
    stage("ensemble", "pets/blend")
    stage("submit", "pets/blend")
    told, oof, y, w = receipt("a"), np.load(RunFiles("pets/a").oof), here.y[here.scored], here.weights[here.scored]
    cuts = {k: np.array(cut) for k, cut in told["decision"]["by_fold"].items()}
    assert {len(cut) for cut in cuts.values()} == {2 + 1 + 2}
    assert all(cut[2] == 0.5 for cut in cuts.values())  # the metric of sex takes probabilities
    mine = np.stack([cuts[str(k)] for k in here.folds[here.scored]])
    parts = {
        "target_kind": sk.accuracy_score(y[:, 0], oof[:, :3].argmax(1), sample_weight=w),
        "target_age": sk.mean_absolute_error(y[:, 1], oof[:, 3], sample_weight=w),
        "target_grade": sk.cohen_kappa_score(y[:, 2], (oof[:, [4]] > mine[:, :2]).sum(1), weights="quadratic", sample_weight=w),
        "target_sex": sk.roc_auc_score(y[:, 3], oof[:, 5], sample_weight=w),
        "target_tags": sk.f1_score(y[:, 4:], oof[:, 6:] > mine[:, 3:], average="macro", sample_weight=w),
    }  # fmt: skip
    for name, value in parts.items():
        assert told["metrics"]["parts"][name]["score"] == pytest.approx(value, rel=1e-6), name
    whole = np.average([1, -1, 1, 1, 1] * np.array(list(parts.values())), weights=[2, 1, 1, 1, 1])
    assert told["metrics"]["score"] == pytest.approx(whole, rel=1e-6)
    assert np.isfinite(told["metrics"]["holdout"]["score"])
    assert not audit("pets/blend", refit).findings
    sent, true = pd.read_csv("submissions/pets/blend.csv", keep_default_na=False), hidden(data)
    w, tags = true["w"] if "w" in true else np.ones(30), ["cat", "old"]
    labels, said = (np.array([[t in cell.split() for t in tags] for cell in f["target_tags"]]) for f in (true, sent))
    parts = [
        2 * sk.accuracy_score(true["target_kind"], sent["target_kind"]),
        -sk.mean_absolute_error(true["target_age"].astype(float), sent["target_age"]),
        sk.cohen_kappa_score(true["target_grade"].astype(int), sent["target_grade"], weights="quadratic"),
        sk.roc_auc_score(true["target_sex"].astype(int), sent["target_sex"]),
        sk.f1_score(labels, said, average="macro"),
    ]
    assert pd.read_csv("submissions/ledger.csv")["private"][0] == pytest.approx(sum(parts) / 6, rel=1e-6)


def test_tuned_cuts_of_several_targets_are_fitted_again_by_the_audit(house):
    pets(house, FIVE.replace("\nholdout = 0.2", "\nrepeats = 2"))
    config = Path("configs/pets/a.toml")
    config.write_text('decision = "optimal"\n' + config.read_text().replace("epochs = 6", "epochs = 1"))
    prepare("pets")
    stage("train", "pets/a")
    Path("configs/pets/all.toml").write_text('stage = "full"\nrun = "a"\n')
    stage("full", "pets/all")
    stage("submit", "pets/all")
    told = receipt("a")
    assert "optimal" in told["decision"]["method"]
    assert len(told["metrics"]["by_repeat"]) == 3
    assert told["decision"]["cuts"][:2] != [0.5, 1.5]
    assert not audit("pets/a", refit).findings
    assert np.load(RunFiles("pets/all").test).shape == (30, 8)


def test_classes_as_columns_of_the_sample(house):
    data = pets(house)
    for name in ("sample_submission.csv", "solution.csv"):
        frame = pd.read_csv(data / name)
        truth = frame.pop("target_kind")
        for kind in KINDS:
            frame[kind] = (truth == kind).astype(int)
        frame.to_csv(data / name, index=False)
    contract(lambda text: text.replace('"accuracy"', '"log_loss"'))
    prepare("pets")
    stage("train", "pets/a")
    stage("submit", "pets/a")
    sent, true = pd.read_csv("submissions/pets/a.csv"), hidden(data)
    p = sent[KINDS].to_numpy()
    lost = sk.log_loss(true[KINDS].to_numpy(), p / p.sum(1, keepdims=True))
    lost = (2 * lost + sk.mean_absolute_error(true["target_age"], sent["target_age"])) / 3
    row = pd.read_csv("submissions/ledger.csv").iloc[0]
    assert row["private"] == pytest.approx(lost, rel=1e-4)  # less is better: both are losses
    assert row["cv"] > 0


def test_a_file_says_what_was_predicted(house):
    """Written, read as Kaggle reads it and scored: the score of the predictions, whatever stands in the cells."""
    data = pets(house, FIVE.replace('"accuracy"', '"map_at_3"').replace('"f1_macro"', '"accuracy"'))
    prepare("pets")
    config, here = load_competition("pets"), table()
    task, metric = task_of(config, here.classes), metric_of(config, CompetitionFiles("pets"))
    form = read_format(config, task, metric, here.classes, data)
    assert [part.labels for part in form.parts] == [False, False, True, False, True]
    rng, n = np.random.default_rng(0), 30
    p = np.column_stack([rng.dirichlet(np.ones(3), n), rng.normal(5, 3, n), 2 * rng.random(n), rng.random((n, 3))])
    filled = fill(form, here.ids[here.test], p, task.decide(p, task.default_cuts(0)))
    assert filled["target_kind"].str.count(" ").eq(2).all()
    filled.to_csv("sent.csv", index=False, float_format="%.9g")
    said = read_back(form, Path("sent.csv"), Path("sent.csv"))
    solution = read_solution(form, metric, data / "solution.csv", {})
    assert said.shape == p.shape
    expected = solution.problem.score(p[solution.place])
    assert leaderboard(form, solution, said) == {"private": pytest.approx(expected, rel=1e-6)}
    assert solution.problem.score(p[solution.place][::-1]) != pytest.approx(expected)


def test_extra_rows_that_lack_classes(house):
    data = pets(house)
    contract(lambda text: text.replace("[images]", '[extra]\ntable = "more.csv"\npattern = "more/{id}.png"\n[images]'))
    (data / "more.csv").write_text("id,target_kind,target_age\nm0,rat,1.5\nm1,dog,2.5\n")
    for row in range(2):
        save(data / f"more/m{row}.png", np.random.default_rng(row).integers(0, 255, (12, 12)))
    prepare("pets")
    assert table().y[table().extra].tolist() == [[2, 1.5], [1, 2.5]]
    (data / "more.csv").write_text("id,target_kind,target_age\nm0,eel,1.5\nm1,dog,2.5\n")
    with pytest.raises(UserError, match="'eel', which is not among"):
        prepare("pets")


def test_make_new_writes_a_contract_with_a_task_for_each(house, monkeypatch, capsys):
    data = pets(house)
    (data / "test.csv").unlink()
    for name in ("train.csv", "sample_submission.csv"):
        frame = pd.read_csv(data / name).drop(columns=["owner", "w"], errors="ignore")
        frame["target_age"] += 0.5
        frame.to_csv(data / name, index=False)
    monkeypatch.setenv("DATA", str(data))
    stage("new", "mine")
    assert "'target_kind': each cell will hold one of 'cat', 'dog', 'rat'" in capsys.readouterr().out
    made = load_competition("mine")
    assert [(part.target, part.task, part.metric) for part in made.parts] == [
        ("target_kind", "multiclass", "accuracy"),
        ("target_age", "regression", "rmse"),
    ]
    prepare("mine")
    assert len(pd.read_csv("folds/mine.csv")) == 120


@pytest.mark.parametrize(
    "name, text",
    [
        ("pseudo", 'stage = "pseudo"\nrun = "a"\n'),
        ("tag", 'stage = "tag"\nrun = "a"\n'),
        ("lb", 'stage = "lb"\nrun = "a"\n'),
        ("ensemble", 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "ridge"\n'),
        ("ensemble", 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "convex"\n'),
        ("ensemble", 'stage = "ensemble"\nmembers = ["a", "b"]\nspace = "logit"\n'),
        ("train", 'base = "a"\nteacher = "b"\n'),
        ("train", 'base = "a"\nfit = "linear"\n'),
    ],
)
def test_stages_that_take_one_target_say_so_before_anything(house, name, text):
    pets(house)
    Path("configs/pets/x.toml").write_text(text)
    with pytest.raises(UserError, match=r"configs/pets/x\.toml: .*several") as caught:
        stage(name, "pets/x")
    assert "\n" not in str(caught.value)
    assert not Path("runs/pets/x/cv.json").exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ('predict.hard_tta = "hflip"', "predict.hard_tta is for one target"),
        ('optim.freeze = "auto"\nmodel.weights = "pretrained"', 'freeze = "auto" is for one target'),
        ('loss.name = "asymmetric"', "unknown loss of several targets 'asymmetric'"),
        ('model.head = "regression"', "model.head 'regression' is not for a several task"),
        ("indicators = true", "multiclass only"),
    ],
)
def test_settings_that_take_one_target_say_so(house, line, said):
    pets(house)
    prepare("pets")
    Path("configs/pets/x.toml").write_text(f'base = "a"\n{line}\n')
    with pytest.raises(UserError, match=said) as caught:
        stage("train", "pets/x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('task = "several"', 'task = "several"\nmetric = "mae"', 'metric does not go with task = "several"'),
        ('task = "several"', 'task = "several"\nsoft = true', "soft does not go"),
        ('task = "several"', 'task = "binary"\nmetric = "accuracy"\ntarget = "x"', 'go with task = "several"'),
        (SEVERAL[SEVERAL.index("[[targets]]") : SEVERAL.index("[images]")], "", "needs them"),
        ('"target_age"', '"target_kind"', "column 'target_kind' stands there twice"),
        ('"target_age"', '"target=age"', "holds '='"),
        ('metric = "mae"', 'metric = "accuracy"', "target 'target_age': metric 'accuracy' does not fit a regression"),
        ('metric = "mae"', 'metric = "own.py"', "takes a named metric"),
        ('metric = "mae"', 'metrics = "mae"', "unknown key 'targets.1.metrics'; did you mean 'metric'"),
        ('weight = 0.5', 'weight = -1.0', "targets.1.weight"),
        ('target = "target_age"\n', "", "targets.1.target"),
        ('task = "regression"', 'task = "multilabel"', "needs it, for example separator"),
        ("[folds]", '[submission]\nformat = "label"\n[folds]', "each is written as its metric wants it"),
        (SEVERAL[SEVERAL.index("[[targets]]") : SEVERAL.index("[images]")], 'targets = ["x", "y"]\n', "needs them"),
        ('"target_age"', '"target_agee"', "has no column 'target_agee'"),
    ],
)  # fmt: skip
def test_wrong_contracts_are_one_line(house, old, new, said):
    pets(house)
    contract(lambda text: text.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        prepare_and_train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gone, said", [("target_age", "hold neither 'target_age'"), ("", "column 'more' is none of")])
def test_a_sample_that_does_not_fit_is_one_line(house, gone, said):
    data = pets(house)
    prepare("pets")
    Path("configs/pets/a.toml").write_text(Path("configs/pets/a.toml").read_text().replace("epochs = 6", "epochs = 1"))
    frame = pd.read_csv(data / "sample_submission.csv")
    (frame.drop(columns=gone) if gone else frame.assign(more=0)).to_csv(data / "sample_submission.csv", index=False)
    prepare("pets")
    stage("train", "pets/a")
    with pytest.raises(UserError, match=said):
        stage("submit", "pets/a")
