"""Search by features: average precision by hand, principal components against scikit-learn, the report of a run."""

import json

import numpy as np
import pytest
from house import make_competition, prepare, stage
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS as TASKS
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from pipeline.scoring.metrics import get_metric
from pipeline.scoring.problem import Problem
from pipeline.scoring.retrieval import in_report, project, search
from pipeline.store.artifacts import RunFiles


def by_hand(query, gallery, y, classes, k):
    """AP@k and top-1, query by query."""
    ap, first = [], []
    for x, c in zip(query, y, strict=True):
        cosine = gallery @ x / np.linalg.norm(gallery, axis=1) / np.linalg.norm(x)
        like = [classes[j] == c for j in np.argsort(-cosine, kind="stable")]
        there = sum(like)
        hits = [sum(like[: i + 1]) / (i + 1) for i in range(min(k, len(like))) if like[i]]
        ap.append(sum(hits) / min(k, there) if there else np.nan)
        first.append(float(like[0]) if there else np.nan)
    return np.array(ap), np.array(first)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(1, 15), st.integers(1, 4), st.integers(1, 20), st.integers(0, 999))
def test_average_precision_is_that_of_its_definition(queries, rows, classes, k, seed):
    rng = np.random.default_rng(seed)
    query, gallery = rng.normal(size=(queries, 3)), rng.normal(size=(rows, 3))
    y, known = rng.integers(0, classes, queries), rng.integers(0, classes, rows)
    ap, first = search(query, gallery, y, known, k)
    wanted = by_hand(query, gallery, y, known, k)
    np.testing.assert_allclose(ap, wanted[0], rtol=1e-6)
    np.testing.assert_array_equal(first, wanted[1])
    assert ((ap >= 0) & (ap <= 1) | np.isnan(ap)).all()


def test_a_perfect_order_is_one_and_the_worst_is_nought():
    gallery, classes = np.eye(4), np.array([0, 0, 1, 1])
    query = np.array([[2.0, 1.9, 0.1, 0.0]])
    assert search(query, gallery, np.array([0]), classes, 2)[0] == 1
    assert search(query, gallery, np.array([0]), classes, 4)[0] == 1  # there are no more than two
    assert search(query, gallery, np.array([1]), classes, 2)[0] == 0
    assert search(query, gallery, np.array([1]), classes, 4)[0] == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("whiten", [False, True])
def test_components_are_those_of_scikit_learn_on_the_gallery_alone(whiten):
    rng = np.random.default_rng(0)
    gallery, query = rng.normal(size=(30, 6)) * [5, 3, 2, 1, 1, 1] + 2, rng.normal(size=(7, 6)) + 3
    peer = PCA(3, whiten=whiten, svd_solver="full").fit(normalize(gallery))
    got = project(query, gallery, 3, whiten)
    for mine, x in zip(got, (query, gallery), strict=True):
        wanted = peer.transform(normalize(x))
        signs = np.sign((mine * wanted).sum(0))
        np.testing.assert_allclose(mine, signs * wanted, rtol=1e-6, atol=1e-9)
    other = project(query[:2], gallery, 3, whiten)
    np.testing.assert_allclose(other[0], got[0][:2])  # a query is projected by the gallery, whoever asks beside it


def test_features_that_say_nothing_are_not_made_large():
    rng = np.random.default_rng(0)
    gallery = np.column_stack([rng.normal(size=(20, 2)) + 3, np.zeros((20, 4))])
    query, known = project(gallery[:5], gallery, 4, True)
    assert np.isfinite(query).all()
    assert np.abs(known).max() < 10
    np.testing.assert_array_equal(known[:, 2:], 0)


def test_the_report_is_the_mean_over_rows_of_the_mean_over_models():
    y = np.array([0, 0, 1, 1])
    weight = np.array([1.0, 1.0, 1.0, 3.0])
    nan = np.nan
    each = np.array([[1.0, 0.5, nan, nan], [0.0, nan, 1.0, nan]])
    plain = Problem(TASKS["multiclass"], get_metric("accuracy", TASKS["multiclass"]), 2, y, np.zeros(4, int), None)
    told = in_report(plain, each, each, 5)
    assert (told["map"], told["n"], told["k"]) == (pytest.approx((0.5 + 0.5 + 1.0) / 3), 3, 5)
    assert told["map_se"] == pytest.approx(np.std([0.5, 0.5, 1]) / np.sqrt(3), rel=0.2)
    heavy = Problem(plain.task, plain.metric, 2, y, plain.folds, None, weight)
    full = np.array([[1.0, 0.5, 0.0, 1.0]])
    assert in_report(heavy, full, full, 5)["top1"] == pytest.approx((1 + 0.5 + 0 + 3) / 6)


def write(house, name, text):
    (house / f"configs/toy/{name}.toml").write_text(f'base = "a"\n{text}')


def told(name):
    return json.loads(RunFiles(f"toy/{name}").receipt.read_text())["metrics"]


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_a_run_is_searched_out_of_fold(house, task):
    make_competition(house, task, metric="accuracy")
    prepare()
    write(house, "n", "[retrieval]\nk = 5\npca = 4\n")
    stage("train", "toy/n")
    files, table = RunFiles("toy/n"), np.genfromtxt("folds/toy.csv", delimiter=",", names=True, dtype=None)
    folds = table["fold"][table["fold"] >= 0]
    labels = np.genfromtxt("data/toy/train.csv", delimiter=",", names=True, dtype=None)["target"]
    y = np.unique(labels, return_inverse=True)[1]
    ap, first = np.zeros(60), np.zeros(60)
    for k in range(3):
        x = np.load(files.fold(k).embeddings)[:60].astype(float)
        peer = PCA(4, svd_solver="full").fit(normalize(x[folds != k]))
        x = peer.transform(normalize(x))
        found = by_hand(x[folds == k], x[folds != k], y[folds == k], y[folds != k], 5)
        ap[folds == k], first[folds == k] = found
    assert told("n")["retrieval"]["map"] == pytest.approx(ap.mean(), abs=0.01)  # ties by rounding
    assert told("n")["retrieval"]["top1"] == pytest.approx(first.mean(), abs=0.04)
    assert told("n")["retrieval"]["n"] == 60
    # It is scored anew without training, and a run that does not ask has none.
    weights = files.fold(0).model.stat().st_mtime_ns
    write(house, "n", "[retrieval]\nk = 3\n")
    stage("train", "toy/n")
    assert told("n")["retrieval"]["k"] == 3
    assert files.fold(0).model.stat().st_mtime_ns == weights
    write(house, "n", "")
    stage("train", "toy/n")
    assert "retrieval" not in told("n")
