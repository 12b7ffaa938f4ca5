"""Cells of a submission: the k best labels, joined labels, labels, numbers; for predictions and for the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.cells import Cells, best_of, holds_labels, written
from pipeline.scoring.classification import map_at
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

ABC = ["a", "b", "c"]
P = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])


def cells(task, columns, labels=False, best=0, names=ABC, told=None, separator=" "):
    return Cells(TASKS[task], columns, names, told or names, labels, best, separator)


def said(filled):
    return {name: values.tolist() for name, values in filled.items()}


def config(**settings):
    return Competition.model_validate(
        {"task": "multiclass", "metric": "accuracy", "id": "id", "target": "y"} | settings
    )


def test_the_best_labels_stand_in_a_cell_in_order():
    form = cells("multiclass", ["y"], labels=True, best=2)
    assert said(form.fill(P, P.argmax(1))) == {"y": ["b c", "a c"]}
    assert said(form.truth(np.array([2, 0]))) == {"y": ["c", "a"]}
    assert form.ranked(["b c", "c"]).tolist() == [[0, 1, 0.5], [0, 0, 1]]
    with pytest.raises(KeyError):
        form.ranked(["b x"])


@given(st.integers(0, 500), st.integers(1, 4))
def test_map_is_the_same_of_predictions_and_of_what_a_submission_says(seed, k):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 4, 20), rng.integers(0, 4, (20, 4)) / 3  # many ties
    form = cells("multiclass", ["y"], True, k, list("abcd"))
    one = np.ones(20)
    assert map_at(k, y, form.ranked(form.fill(p, y)["y"]), one) == pytest.approx(map_at(k, y, p, one))


@pytest.mark.parametrize(
    "form, y, want",
    [
        (cells("multiclass", ["y"], True), [2, 0], {"y": ["c", "a"]}),
        (cells("multiclass", ABC), [2, 0], {"a": [0, 1], "b": [0, 0], "c": [1, 0]}),
        (cells("multiclass", ABC), [[0.5, 0.5, 0], [0, 0, 1]], {"a": [0.5, 0], "b": [0.5, 0], "c": [0, 1]}),
        (cells("binary", ["y"], names=["n", "p"]), [1, 0], {"y": [1, 0]}),
        (cells("binary", ["y"], True, names=["n", "p"]), [1, 0], {"y": ["p", "n"]}),
        (cells("binary", ["n", "p"], names=["n", "p"]), [1, 0], {"n": [0, 1], "p": [1, 0]}),
        (cells("multilabel", ["y"], True, separator="|"), [[1, 0, 1], [0, 0, 0]], {"y": ["a|c", ""]}),
        (cells("multilabel", ["c", "a", "b"]), [[1, 0, 1], [0, 0, 0]], {"c": [1, 0], "a": [1, 0], "b": [0, 0]}),
        (cells("ordinal", ["y"], True, names=["0", "1", "2"]), [2, 0], {"y": ["2", "0"]}),
        (cells("regression", ["u", "v"], names=["v", "u"]), [[1.5, 2], [3, 4]], {"u": [2, 4], "v": [1.5, 3]}),
    ],
)
def test_the_truth_stands_as_a_perfect_submission_would(form, y, want):
    y = np.array(y)
    assert said(form.truth(y)) == want
    wide = np.eye(len(form.names))[y] if form.task.name == "multiclass" and y.ndim == 1 else y.reshape(2, -1)
    if form.task.name != "multiclass" or y.ndim == 1:
        assert said(form.fill(wide.astype(float), y)) == want


def test_what_cells_hold():
    assert holds_labels(config(), ["y"], False, 0, "sample")
    assert not holds_labels(config(), ["y"], False, 3, "sample")
    assert not holds_labels(config(), ABC, True, 0, "sample")
    binary = config(task="binary")
    assert holds_labels(binary, ["y"], True, 0, "sample")
    assert not holds_labels(binary, ["y"], False, 0, "sample")
    assert holds_labels(config(task="binary", submission={"format": "label"}), ["y"], False, 0, "sample")
    with pytest.raises(UserError, match="sample has one column"):
        holds_labels(config(submission={"format": "value"}), ["y"], True, 0, "sample")


def test_how_many_labels_a_cell_holds():
    assert best_of(config(), "map_at_7") == 7
    assert best_of(config(), "accuracy") == 0
    assert best_of(config(submission={"best": 4}), "mine.py") == 4


def test_names_are_written_as_the_sample_writes_them():
    assert written(["1.0", "2.0"], ["1", "2"]) == ["1", "2"]
    assert written(["1.0", "2.0"], ["1.0"]) == ["1.0", "2.0"]
    assert written(["x", "2.0"], ["1"]) == ["x", "2.0"]
