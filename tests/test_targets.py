"""End to end: a competition's own metric, weights, soft and unknown targets, the k best labels, means over groups."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from house import make_competition, prepare, stage

from pipeline.scoring.metrics import metric_of
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import read_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.tasks import TASKS

TOY = CompetitionFiles("toy")
STAGES = {
    "t": 'stage = "tag"\nrun = "a"\n',
    "p": 'stage = "pseudo"\nrun = "blend"\n',
    "f": 'stage = "lb"\nrun = "blend"\n',
}
METRIC = """import pandas as pd

def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str) -> float:
    assert list(solution.columns) == list(submission.columns)
    assert (solution.pop(row_id_column_name) == submission.pop(row_id_column_name)).all()
    return float((solution["target"] == submission["target"]).mean())
"""


def contract(old, new):
    path = TOY.config
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def build(*names):
    prepare()
    for name, text in STAGES.items():
        (TOY.config.parent / f"{name}.toml").write_text(text)
    kinds = {"blend": "ensemble", "t": "tag", "p": "pseudo", "f": "lb"}
    for name in names:
        stage(kinds.get(name, "train"), f"toy/{name}")


def receipt(name):
    return json.loads(RunFiles(f"toy/{name}").receipt.read_text())


def table():
    return read_table(TOY, read_table_facts(TOY))


def problem():
    config = load_competition("toy")
    return Problem.of(table(), TASKS[config.task], metric_of(config, TOY))


def oof(name="a"):
    return np.asarray(read_npy(RunFiles(f"toy/{name}").oof))


def test_a_competitions_own_metric_from_training_to_the_leaderboard(house):
    make_competition(house, "multiclass", metric="metric.py")
    (TOY.config.parent / "metric.py").write_text(METRIC)
    contract('metric = "metric.py"\n', 'metric = "metric.py"\nmetric_greater = true\n')
    build("a", "b", "blend", "f")
    told = receipt("a")["metrics"]
    assert told["metric"] == "metric.py"
    assert told["score"] == sk.accuracy_score(table().y[table().scored, 0], oof().argmax(1))
    assert told["se"] > 0
    assert '"valid_metric.py"' in RunFiles("toy/a").fold(0).log.read_text()
    stage("audit", "toy/f")
    stage("submit", "toy/f")
    submitted = json.loads(RunFiles("toy/f").submission_receipt.read_text())
    assert 0 <= submitted["private"] <= 1
    before = receipt("a")["key"]
    stage("train", "toy/a")
    assert receipt("a")["key"] == before
    # Another file is another score: nothing is trained again, but all is scored again.
    (TOY.config.parent / "metric.py").write_text(METRIC.replace(".mean())", ".mean() / 2)"))
    stage("train", "toy/a")
    after = receipt("a")
    assert after["key"] != before
    assert after["fit_hash"] == json.loads(RunFiles("toy/a").fold(0).receipt.read_text())["fit_hash"]
    assert after["metrics"]["score"] == told["score"] / 2


def test_a_metric_that_fails_is_told_before_anything_is_trained(house):
    make_competition(house, "multiclass", metric="metric.py")
    (TOY.config.parent / "metric.py").write_text(METRIC.replace("    return", "    raise ValueError('no')\n    return"))
    contract('metric = "metric.py"\n', 'metric = "metric.py"\nmetric_greater = false\n')
    prepare()
    with pytest.raises(UserError, match=r"^configs/toy/metric.py: score\(\) raised ValueError: no$"):
        stage("train", "toy/a")
    assert not RunFiles("toy/a").fold(0).log.exists()


def test_the_best_labels_of_a_row_are_submitted_and_scored(house):
    make_competition(house, "multiclass", metric="map_at_3")
    build("a")
    y, p = table().y[table().scored, 0].astype(int), oof()
    order = np.argsort(-p, axis=1, kind="stable")[:, :3]
    want = np.mean([(1 / (1 + np.flatnonzero(o == t))).sum() for o, t in zip(order, y, strict=True)])
    assert receipt("a")["metrics"]["score"] == pytest.approx(want)
    stage("submit", "toy/a")
    sent = pd.read_csv(RunFiles("toy/a").submission)
    assert sent["target"].str.split().str.len().eq(3).all()
    submitted = json.loads(RunFiles("toy/a").submission_receipt.read_text())
    assert submitted["private"] > 0.3


def weigh(data):
    frame = pd.read_csv(data / "train.csv")
    frame["w"] = np.random.default_rng(0).integers(0, 4, len(frame))
    frame.to_csv(data / "train.csv", index=False)
    contract('id = "id"\n', 'id = "id"\nweight = "w"\n')
    return frame["w"].to_numpy(float)


@pytest.mark.parametrize("task", ["ordinal", "multilabel", "regression"])
def test_every_score_counts_the_weights(house, task):
    weight = weigh(make_competition(house, task))
    build("a", "b", "blend", "f")
    assert (table().weights[table().scored] == weight).all()
    assert (table().weights[table().test] == 1).all()
    mine, told = problem(), receipt("a")
    rows = np.arange(len(weight)).repeat(weight.astype(int))
    twice = Problem(mine.task, mine.metric, mine.classes, mine.y[rows], mine.folds[rows], None)
    fixed = told["metrics"].get("fixed", told["metrics"]["score"])
    assert fixed == pytest.approx(twice.score(oof()[rows]))
    assert fixed != pytest.approx(twice.metric(twice.task, mine.y, oof(), mine.cuts))
    stage("audit", "toy/f")
    stage("submit", "toy/f")


def test_weights_that_are_none(house):
    data = make_competition(house, "regression")
    frame = pd.read_csv(data / "train.csv")
    contract('id = "id"\n', 'id = "id"\nweight = "w"\n')
    for values, said in (
        (-1.0, "weights in column 'w' are 0 or more, some above 0; id 'i000' has -1"),
        (0.0, "all are 0"),
    ):
        frame.assign(w=values).to_csv(data / "train.csv", index=False)
        with pytest.raises(UserError, match=said):
            prepare()
    frame.assign(w="x").to_csv(data / "train.csv", index=False)
    with pytest.raises(UserError, match="id 'i000' has 'x' in column 'w', not a number"):
        prepare()


def soften(data, names):
    rng = np.random.default_rng(0)
    for file in ("train.csv", "solution.csv"):
        frame = pd.read_csv(data / file)
        hard = np.array([[float(label == name) for name in names] for label in frame["target"]])
        soft = 0.6 * hard + 0.4 * rng.dirichlet(np.ones(len(names)), len(frame))
        frame = frame.drop(columns="target").assign(**dict(zip(names, soft.T.round(9), strict=True)))
        frame.to_csv(data / file, index=False)
    sample = pd.read_csv(data / "sample_submission.csv").drop(columns="target")
    sample.assign(**dict.fromkeys(names, 0.25)).to_csv(data / "sample_submission.csv", index=False)


def test_soft_classes_from_table_to_submission(house):
    names = ["ant", "bee", "cat", "dog"]
    soften(make_competition(house, "multiclass", metric="kl_divergence"), names)
    contract('target = "target"\n', f"target = {json.dumps(names)}\nsoft = true\n")
    build("a", "b", "blend", "t", "f")
    y = table().y[table().scored]
    assert y.shape == (60, 4)
    assert y.sum(1) == pytest.approx(1, abs=1e-12)
    p = np.clip(oof().astype(float), 1e-15, 1 - 1e-15)
    p /= p.sum(1, keepdims=True)
    assert receipt("a")["metrics"]["score"] == pytest.approx((y * np.log(y / p)).sum(1).mean())
    review = pd.read_csv(RunFiles("toy/t").review)
    label = dict(zip(table().ids[table().scored], y.argmax(1), strict=True))
    assert all(names[label[row.id]] == row.label for row in review.itertuples())
    stage("audit", "toy/f")
    stage("submit", "toy/f")
    assert json.loads(RunFiles("toy/f").submission_receipt.read_text())["private"] > 0


@pytest.mark.parametrize(
    "metric, said", [("accuracy", "'accuracy' cannot score soft targets; choices: brier, kl_divergence, log_loss")]
)
def test_a_metric_of_labels_cannot_score_soft_targets(house, metric, said):
    soften(make_competition(house, "multiclass", metric=metric), ["ant", "bee", "cat", "dog"])
    contract('target = "target"\n', 'target = ["ant", "bee", "cat", "dog"]\nsoft = true\n')
    with pytest.raises(UserError, match=said):
        prepare()


def test_a_soft_binary_target(house):
    data = make_competition(house, "binary", metric="log_loss")
    for file in ("train.csv", "solution.csv"):
        frame = pd.read_csv(data / file)
        frame["target"] = np.where(frame["target"] == "yes", 0.9, np.linspace(0, 0.3, len(frame)))
        frame.to_csv(data / file, index=False)
    contract('target = "target"\n', 'target = "target"\nsoft = true\nclasses = ["no", "yes"]\n')
    build("a", "b", "blend", "p")
    y, p = table().y[table().scored, 0], oof()[:, 0]
    want = sk.log_loss([1, 0] * len(y), p.repeat(2), sample_weight=np.column_stack([y, 1 - y]).ravel())
    assert receipt("a")["metrics"]["score"] == pytest.approx(want, rel=1e-6)
    stage("submit", "toy/blend")


def mask(data, names):
    frame = pd.read_csv(data / "train.csv")
    if "target" in frame:
        wide = [[float(name in str(cell).split()) for name in names] for cell in frame["target"]]
        frame = frame.drop(columns="target").assign(**dict(zip(names, np.array(wide).T, strict=True)))
        other = pd.read_csv(data / "solution.csv")
        wide = [[int(name in str(cell).split()) for name in names] for cell in other["target"]]
        other = other.drop(columns="target").assign(**dict(zip(names, np.array(wide).T, strict=True)))
        other.to_csv(data / "solution.csv", index=False)
        sample = other[["id"]].assign(**dict.fromkeys(names, 0.5))
        sample.to_csv(data / "sample_submission.csv", index=False)
    hidden = np.random.default_rng(0).random((len(frame), len(names))) < 0.4
    hidden[:, 0] = False
    frame[names] = frame[names].mask(hidden)
    frame.to_csv(data / "train.csv", index=False)
    return ~hidden


@pytest.mark.parametrize("metric", ["roc_auc", "f1_macro"])
def test_unknown_labels_are_left_out_of_loss_and_metric(house, metric):
    names = ["red", "green", "blue"]
    known = mask(make_competition(house, "multilabel", metric=metric), names)
    contract('target = "target"\nseparator = " "\n', f'target = {json.dumps(names)}\nunknown = "mask"\n')
    build("a", "b", "blend", "p", "f")
    y, p = table().y[table().scored], oof()
    assert (np.isnan(y) == ~known).all()
    score = {"roc_auc": sk.roc_auc_score, "f1_macro": lambda t, q: sk.f1_score(t, q > 0.5)}[metric]
    want = np.mean([score(y[known[:, c], c], p[known[:, c], c]) for c in range(3)])
    told = receipt("a")["metrics"]
    assert told.get("fixed", told["score"]) == pytest.approx(want)
    assert np.isfinite(receipt("f")["metrics"]["score"])
    stage("audit", "toy/f")
    stage("submit", "toy/f")
    with pytest.raises(UserError, match="tags are of rows whose labels are all known"):
        stage("tag", "toy/t")


def test_unknown_values_of_several_targets(house):
    data = make_competition(house, "regression", metric="mcrmse")
    for file in ("train.csv", "solution.csv", "sample_submission.csv"):
        frame = pd.read_csv(data / file)
        frame["other"] = 1000 - frame["target"] * 3
        frame.to_csv(data / file, index=False)
    known = mask_column(data, "other")
    contract(
        'target = "target"\n', 'target = ["target", "other"]\nunknown = "mask"\nmetric_weights = { other = 0.5 }\n'
    )
    build("a", "b", "blend", "f")
    y, p = table().y[table().scored], oof()
    roots = [np.sqrt(np.mean((y[rows, c] - p[rows, c]) ** 2)) for c, rows in enumerate((slice(None), known))]
    assert receipt("a")["metrics"]["score"] == pytest.approx(np.average(roots, weights=[1, 0.5]))
    assert np.isfinite(p).all()
    stage("audit", "toy/f")
    stage("submit", "toy/f")


def mask_column(data, name):
    frame = pd.read_csv(data / "train.csv")
    known = np.random.default_rng(0).random(len(frame)) < 0.6
    frame[name] = frame[name].where(known)
    frame.to_csv(data / "train.csv", index=False)
    return known


def test_the_mean_over_groups_from_training_to_the_leaderboard(house):
    data = make_competition(house, "ordinal", metric="mae", extra='[group]\npattern = "^i0?(.)"\n')
    contract('metric = "mae"\n', 'metric = "mae"\nmetric_per_group = true\n')
    build("a", "b", "blend", "f")
    mine = problem()
    alone = [mine.part(mine.blocks == b) for b in np.unique(mine.blocks)]
    errors = [
        np.abs(part.y - oof()[mine.blocks == b][:, 0]).mean()
        for part, b in zip(alone, np.unique(mine.blocks), strict=True)
    ]
    assert len(errors) > 3
    assert receipt("a")["metrics"]["score"] == pytest.approx(np.mean(errors))
    assert receipt("a")["metrics"]["se"] > 0
    stage("audit", "toy/f")
    stage("submit", "toy/f")
    sent, solution = pd.read_csv(RunFiles("toy/f").submission), pd.read_csv(data / "solution.csv")
    private = solution.merge(sent, on="id", suffixes=("", "_sent")).query("Usage == 'Private'")
    error = (private["target"] - private["target_sent"]).abs()
    told = json.loads(RunFiles("toy/f").submission_receipt.read_text())["private"]
    assert told == pytest.approx(error.groupby(private["id"].str.extract("^i0?(.)")[0]).mean().mean(), rel=1e-6)


@pytest.mark.parametrize(
    "task, change, said",
    [
        ("binary", "soft = true", "soft: the column is the probability of the second class"),
        ("ordinal", "soft = true", "soft: one column of a binary task, or a column for each class or label"),
        ("multiclass", "soft = true", "soft: one column of a binary task, or a column for each class or label"),
        ("regression", 'unknown = "mask"', 'unknown: "mask" is for several columns'),
        ("multiclass", "metric_greater = true", "metric_greater: a metric file needs it"),
        ("multiclass", "metric_per_group = true", "metric_per_group: the metric is the mean over groups: say in"),
        ("multiclass", "metric_weights = { ant = 2.0 }", "metric_weights needs a mean over labels or targets"),
        (
            "multilabel",
            'classes = ["red", "green", "blue"]\nmetric_weights = { rad = 2.0 }',
            "names 'rad', which is none of",
        ),
    ],
)
def test_contracts_that_contradict_themselves(house, task, change, said):
    make_competition(house, task)
    contract('id = "id"\n', f'id = "id"\n{change}\n')
    with pytest.raises(UserError, match=said):
        prepare()


@pytest.mark.parametrize(
    "cells, said",
    [
        ([["1.2", "0"]], "id 'i000' must have numbers from 0 to 1"),
        ([["", "1"]], r"id 'i000' has no value in column 'red': fill it or drop the row \(or set unknown"),
    ],
)
def test_cells_that_are_no_soft_labels(house, cells, said):
    data = make_competition(house, "multilabel", metric="log_loss")
    frame = pd.read_csv(data / "train.csv")[["id"]].assign(red="0.5", green="0.5")
    frame.loc[:0, ["red", "green"]] = cells
    frame.to_csv(data / "train.csv", index=False)
    contract('target = "target"\nseparator = " "\n', 'target = ["red", "green"]\nsoft = true\n')
    with pytest.raises(UserError, match=said):
        prepare()


@pytest.mark.parametrize(
    "rows, said",
    [
        ([0], r"id 'i000' has no value in any of the columns \['red', 'green'\]: drop the row"),
        (slice(None), "column 'green' has no value at all: drop it"),
    ],
)
def test_rows_and_columns_of_which_nothing_is_known(house, rows, said):
    data = make_competition(house, "multilabel", metric="log_loss")
    frame = pd.read_csv(data / "train.csv")[["id"]].assign(red="1", green="0")
    frame.loc[rows, "green"] = ""
    if rows == [0]:
        frame.loc[rows, "red"] = ""
    frame.to_csv(data / "train.csv", index=False)
    contract('target = "target"\nseparator = " "\n', 'target = ["red", "green"]\nunknown = "mask"\n')
    with pytest.raises(UserError, match=said):
        prepare()
