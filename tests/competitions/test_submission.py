"""Each format that Kaggle asks for: filled, read back, refused where it is wrong."""

import numpy as np
import pandas as pd
import pytest

from pipeline.competitions.solution import leaderboard, read_solution
from pipeline.competitions.submission import decode, fill, read_back, read_format
from pipeline.scoring.metrics import METRICS
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

IDS = np.array(["r2", "r0", "r1"])


def form_of(tmp_path, task, metric, header, classes, cells="0", **settings):
    header = header.split(",")
    rows = [[i, *[cells] * (len(header) - 1)] for i in ("r0", "r1", "r2")]
    pd.DataFrame(rows, columns=header).to_csv(tmp_path / "sample_submission.csv", index=False)
    target = settings.pop("target", "y")
    config = Competition.model_validate({"task": task, "metric": metric, "id": "id", "target": target, **settings})
    return read_format(config, TASKS[task], METRICS[metric], classes, tmp_path)


MULTI = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
SEP = {"separator": " "}
# task, metric, header, classes, sample cell, settings, prediction, labels -> cells of r0, r1, r2
FORMATS = {
    "class name": ("multiclass", "accuracy", "id,y", ["a", "b", "c"], "a", {}, MULTI, [0, 2, 1], [["c"], ["b"], ["a"]]),
    "class number": ("multiclass", "accuracy", "id,y", ["1", "5", "9"], "1", {}, MULTI, [0, 2, 1], [["9"], ["5"], ["1"]]),
    "class with zeros in front": ("multiclass", "accuracy", "id,y", ["001", "010"], "001", {}, MULTI[:, :2], [0, 1, 1],
                                  [["010"], ["010"], ["001"]]),
    "class with a point": ("multiclass", "accuracy", "id,y", ["1.0", "2.0"], "1", {}, MULTI[:, :2], [0, 1, 1],
                           [["2"], ["2"], ["1"]]),
    "the best two": ("multiclass", "map_at_3", "id,y", ["a", "b", "c"], "a b", {"submission": {"best": 2}}, MULTI, [0, 2, 1],
                     [["c a"], ["b c"], ["a b"]]),
    "the best by the metric": ("multiclass", "map_at_3", "id,y", ["1.0", "5.0", "9.0"], "1 5", {"separator": None}, MULTI, [0, 2, 1],
                               [["9 1 5"], ["5 9 1"], ["1 5 9"]]),
    "column a class": ("multiclass", "log_loss", "id,c,a,b", ["a", "b", "c"], "0.3", {}, MULTI, [0, 2, 1],
                       [["0.8", "0.1", "0.1"], ["0.3", "0.2", "0.5"], ["0.1", "0.7", "0.2"]]),
    "probability": ("binary", "roc_auc", "id,y", ["n", "p"], "0.5", {}, MULTI[:, :1], [1, 0, 0], [["0.1"], ["0.2"], ["0.7"]]),
    "binary label": ("binary", "f1", "id,y", ["n", "p"], "n", {}, MULTI[:, :1], [1, 0, 0], [["n"], ["n"], ["p"]]),
    "binary as asked": ("binary", "f1", "id,y", ["n", "p"], "n", {"submission": {"format": "value"}}, MULTI[:, :1], [1, 0, 0],
                        [["0.1"], ["0.2"], ["0.7"]]),
    "both sides": ("binary", "log_loss", "id,n,p", ["n", "p"], "0.5", {}, MULTI[:, :1], [1, 0, 0],
                   [["0.9", "0.1"], ["0.8", "0.2"], ["0.3", "0.7"]]),
    "joined": ("multilabel", "f1_macro", "id,y", ["x", "y", "z"], "x", SEP, MULTI, LABELS, [[""], ["y"], ["x z"]]),
    "label columns": ("multilabel", "f1_macro", "id,x,y,z", ["x", "y", "z"], "0", {"target": ["x", "y", "z"]}, MULTI, LABELS,
                      [["0", "0", "0"], ["0", "1", "0"], ["1", "0", "1"]]),
    "label probabilities": ("multilabel", "roc_auc", "id,x,y,z", ["x", "y", "z"], "0", {"target": ["x", "y", "z"]}, MULTI, LABELS,
                            [["0.1", "0.1", "0.8"], ["0.2", "0.5", "0.3"], ["0.7", "0.2", "0.1"]]),
    "grade": ("ordinal", "quadratic_kappa", "id,y", ["0", "1", "2"], "0", {}, MULTI[:, :1], [1, 0, 2], [["0"], ["2"], ["1"]]),
    "grade as value": ("ordinal", "mae", "id,y", ["0", "1", "2"], "0", {}, MULTI[:, :1], [1, 0, 2], [["0.1"], ["0.2"], ["0.7"]]),
    "two targets": ("regression", "rmse", "id,u,v", ["v", "u"], "0", {"target": ["v", "u"]}, MULTI[:, :2], MULTI[:, :2],
                    [["0.1", "0.1"], ["0.5", "0.2"], ["0.2", "0.7"]]),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMATS)
def test_filled_and_read_back(case, tmp_path):
    task, metric, header, classes, cell, settings, prediction, labels, want = FORMATS[case]
    form = form_of(tmp_path, task, metric, header, classes, cell, **settings)
    labels = np.array(labels)
    filled = fill(form, IDS, prediction, labels)
    filled.to_csv(tmp_path / "sent.csv", index=False, float_format="%.9g")
    decoded = read_back(form, tmp_path / "sent.csv", tmp_path / "sent.csv")
    frame = pd.read_csv(tmp_path / "sent.csv", dtype=str, keep_default_na=False)
    assert list(frame.columns) == header.split(",")
    assert frame.iloc[:, 1:].to_numpy().tolist() == want
    if form.cells.best:
        assert (np.argsort(-decoded, axis=1, kind="stable")[:, 0] == labels[[1, 2, 0]]).all()
        assert ((decoded > 0).sum(1) == form.cells.best).all()
        return
    given = labels if form.labels else prediction
    order = [1, 2, 0]
    np.testing.assert_allclose(decoded, given[order])


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: f.rename(columns={"a": "A"}), "header"),
        (lambda f: f[::-1], "row 2 does not have the id of the sample's row"),
        (lambda f: f[:2], "row 4 does not have the id"),
        (lambda f: pd.concat([f, f[:1]]), "row 5 does not have the id"),
        (lambda f: f.assign(a=["0.8", "nan", "0.1"]), "'r1' has no finite number"),
        (lambda f: f.assign(a=["0.8", "inf", "0.1"]), "'r1' has no finite number"),
        (lambda f: f.assign(a=["-0.1", "0.5", "0.1"]), "'r0' has a probability outside 0..1"),
        (lambda f: f.assign(b=["0.8", "0.5", "0.1"]), "'r0' has probabilities that sum to"),
    ],
)
def test_what_kaggle_would_refuse(change, said, tmp_path):
    form = form_of(tmp_path, "multiclass", "log_loss", "id,a,b,c", ["a", "b", "c"])
    filled = fill(form, IDS, MULTI, MULTI.argmax(1))
    change(filled.astype(str)).to_csv(tmp_path / "sent.csv", index=False)
    with pytest.raises(UserError, match=said):
        read_back(form, tmp_path / "sent.csv", tmp_path / "sent.csv")


@pytest.mark.parametrize(
    "cell, said",
    [
        ("a x", "id 'r1' has the label 'x', not among the classes: 3 different labels at most, best first"),
        ("a a", "id 'r1' has 'a a': 3 different"),
        ("a b c a", "id 'r1' has 'a b c a'"),
        ("", "id 'r1' has the label ''"),
    ],
)
def test_best_labels_that_are_none(cell, said, tmp_path):
    form = form_of(tmp_path, "multiclass", "map_at_3", "id,y", ["a", "b", "c"])
    filled = fill(form, IDS, MULTI, MULTI.argmax(1))
    filled.loc[1, "y"] = cell
    with pytest.raises(UserError, match=said):
        decode(form, filled, tmp_path)
    with pytest.raises(UserError, match="the 3 best labels of a row stand in one cell, joined by ' '"):
        form_of(tmp_path, "multiclass", "map_at_3", "id,y", ["a b", "c"])


def test_id_without_prediction(tmp_path):
    form = form_of(tmp_path, "binary", "roc_auc", "id,y", ["0", "1"])
    with pytest.raises(UserError, match="'r1' has no prediction"):
        fill(form, IDS[:2], MULTI[:2, :1], np.zeros(2, int))


@pytest.mark.parametrize(
    "task, header, classes, settings, said",
    [
        ("multiclass", "id,a,x", ["a", "b"], {}, "are not the classes"),
        ("multiclass", "id,y", ["a", "b"], {"submission": {"format": "value"}}, "needs one column a class"),
        ("regression", "id,y", ["y"], {"submission": {"format": "label"}}, "does not fit a regression"),
        ("regression", "id,y", ["u", "v"], {"target": ["u", "v"]}, "do not hold the targets"),
        ("binary", "id", ["a", "b"], {}, "do not hold the targets"),
        ("ordinal", "id,0,1", ["0", "1"], {}, "not one a class"),
        ("ordinal", "id,y", ["1", "2"], {}, 'needs grades 0, 1, 2, ..., .*set task = "regression"'),
    ],
)
def test_sample_that_cannot_be_filled(task, header, classes, settings, said, tmp_path):
    metric = {"multiclass": "log_loss", "regression": "rmse", "binary": "roc_auc", "ordinal": "mae"}[task]
    with pytest.raises(UserError, match=said):
        form_of(tmp_path, task, metric, header, classes, **settings)


def test_local_leaderboard(tmp_path):
    form = form_of(tmp_path, "multiclass", "accuracy", "id,y", ["a", "b", "c"], "a")
    usage = ["Public", "Private", "Private"]
    solution = pd.DataFrame({"id": ["r2", "r1", "r0"], "y": ["a", "b", "a"], "Usage": usage})
    solution.to_csv(tmp_path / "solution.csv", index=False)
    filled = fill(form, IDS, MULTI, MULTI.argmax(1))
    submitted = decode(form, filled, tmp_path)
    assert leaderboard(form, read_solution(form, METRICS["accuracy"], tmp_path / "solution.csv", {}), submitted) == {
        "public": 1.0,
        "private": 0.5,
    }
    for change, said in (
        (solution[:2], "do not have the same ids, for example 'r0'"),
        (solution.assign(Usage="Pubic"), "Usage 'pubic' is none of"),
        (solution[:0], "do not have the same ids"),
    ):
        change.to_csv(tmp_path / "solution.csv", index=False)
        with pytest.raises(UserError, match=said):
            leaderboard(form, read_solution(form, METRICS["accuracy"], tmp_path / "solution.csv", {}), submitted)
    solution.drop(columns="Usage").to_csv(tmp_path / "solution.csv", index=False)
    assert leaderboard(form, read_solution(form, METRICS["accuracy"], tmp_path / "solution.csv", {}), submitted) == {
        "private": pytest.approx(2 / 3)
    }


def test_labels_count_as_certain_where_the_metric_wants_probabilities(tmp_path):
    form = form_of(tmp_path, "multilabel", "average_precision", "id,y", ["x", "y"], "x", separator=" ")
    solution = pd.DataFrame({"id": ["r0", "r1", "r2"], "y": ["x", "y", "x y"]})
    solution.to_csv(tmp_path / "solution.csv", index=False)
    submitted = np.array([[1, 0], [0, 1], [1, 1]])
    assert leaderboard(
        form, read_solution(form, METRICS["average_precision"], tmp_path / "solution.csv", {}), submitted
    ) == {"private": 1.0}
