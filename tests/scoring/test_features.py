"""Label-free features against independent formulas, and what they must not depend on."""

import numpy as np
import pytest
from problems import ROW_TASKS as TASKS
from scipy import ndimage, stats
from sklearn.neighbors import KNeighborsRegressor

from pipeline.scoring.features import image_statistics, in_model, label_free, neighbours_say, schema, statistic_names

WIDTH = {"binary": 1, "multiclass": 5, "multilabel": 4, "ordinal": 1, "regression": 2}


def draw(task, n=30, members=3, seed=0, width=None):
    """Predictions (M N P), spread, distance and statistics of rows."""
    rng = np.random.default_rng(seed)
    shape = (members, n, width or WIDTH[task])
    p = rng.dirichlet(np.ones(shape[2]), shape[:2]) if task == "multiclass" else rng.random(shape)
    p = 4 * p - 0.5 if task in ("ordinal", "regression") else p
    return p.astype(np.float32), rng.random(n), rng.random(n), rng.random((n, 3))


def column(features, name):
    return features[0][:, features[1].index(name)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("members", [1, 3])
def test_every_task_has_finite_named_features_of_each_row_alone(task, members):
    given = draw(task, members=members)
    values, names = label_free(TASKS[task], *given)
    assert values.shape == (30, len(names)) == (30, len(set(names)))
    assert np.isfinite(values).all()
    assert values.dtype == np.float64
    order = np.random.default_rng(1).permutation(30)[:11]
    part, same = label_free(TASKS[task], given[0][:, order], *(v[order] for v in given[1:]))
    assert same == names
    np.testing.assert_array_equal(part, values[order])


@pytest.mark.parametrize("task", TASKS)
def test_the_schema_depends_on_task_width_and_members_only(task):
    def names(**how):
        return label_free(TASKS[task], *draw(task, **how))[1]

    assert schema(names(seed=0)) == schema(names(seed=1, n=7)) == schema(names(members=2))
    assert schema(names(members=1)) != schema(names(members=2))
    sure = np.ones((2, 30, WIDTH[task]))
    assert label_free(TASKS[task], sure, *draw(task)[1:])[1] == names(), "constant columns stay"


def test_the_schema_knows_order_and_borders():
    assert schema(["a", "b"]) != schema(["b", "a"])
    assert schema(["ab"]) != schema(["a", "b"])


def test_wide_predictions_have_no_column_a_class():
    assert "p0" in label_free(TASKS["multiclass"], *draw("multiclass", width=16))[1]
    assert "p0" not in label_free(TASKS["multiclass"], *draw("multiclass", width=17))[1]


def test_multiclass_features_are_what_their_names_say():
    p, spread, distance, statistics = draw("multiclass")
    features, mean = label_free(TASKS["multiclass"], p, spread, distance, statistics), p.mean(0, dtype=float)
    ordered = np.sort(mean, 1)[:, ::-1]
    for j in range(3):
        np.testing.assert_allclose(column(features, f"top{j + 1}"), ordered[:, j], atol=1e-6)
    np.testing.assert_allclose(column(features, "margin"), ordered[:, 0] - ordered[:, 1], atol=1e-6)
    np.testing.assert_allclose(column(features, "entropy"), stats.entropy(mean, axis=1), atol=1e-5)
    np.testing.assert_allclose(column(features, "p3"), mean[:, 3], atol=1e-6)
    np.testing.assert_allclose(column(features, "member_sd"), p.astype(float).std(0).mean(1), atol=1e-6)
    other = [(p[:, i].argmax(1) != mean[i].argmax()).mean() for i in range(30)]
    np.testing.assert_allclose(column(features, "member_other"), other)
    assert (column(features, "tta_sd") == spread).all()
    assert (column(features, "distance") == distance).all()
    assert (column(features, "image2") == statistics[:, 2]).all()


def test_labels_are_doubted_one_by_one():
    p = np.array([[[0.9, 0.5, 0.2]]])
    features = label_free(TASKS["multilabel"], p, *(np.zeros(1),) * 2, np.zeros((1, 0)))
    assert column(features, "margin")[0] == pytest.approx((0.8 + 0 + 0.6) / 3)
    assert column(features, "least_margin")[0] == pytest.approx(0)
    assert column(features, "labels")[0] == pytest.approx(1.6)
    want = np.mean([stats.entropy([q, 1 - q]) for q in (0.9, 0.5, 0.2)])
    assert column(features, "entropy")[0] == pytest.approx(want)


@pytest.mark.parametrize("grade, distance", [(0.5, 0), (1.0, 0.5), (2.4, 0.1), (2.6, 0.1), (0.0, 0.5), (-0.4, 0.9)])
def test_a_grade_is_as_sure_as_it_is_far_from_a_cut(grade, distance):
    features = label_free(TASKS["ordinal"], np.array([[[grade]]]), *(np.zeros(1),) * 2, np.zeros((1, 0)))
    assert column(features, "to_cut")[0] == pytest.approx(distance)


def test_certain_predictions_have_no_entropy():
    for task, p in (("multiclass", [1.0, 0.0]), ("binary", [1.0])):
        features = label_free(TASKS[task], np.array([[p]]), *(np.zeros(1),) * 2, np.zeros((1, 0)))
        assert column(features, "entropy")[0] == pytest.approx(0, abs=1e-9)


def test_neighbours_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(23, 6)).astype(np.float16), rng.normal(size=(40, 6)).astype(np.float16)
    labels = rng.integers(0, 5, 40)
    a, b = (
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (query, reference)
    )
    distances = 1 - a @ b.T
    near = distances.argsort(1)[:, :4]
    found, theirs = in_model(query, reference, 4, labels)
    np.testing.assert_allclose(found, np.sort(distances, 1)[:, :4].mean(1), atol=1e-5)
    np.testing.assert_array_equal(theirs, labels[near])
    found, nothing = in_model(query, reference[:2], 4)
    assert nothing is None
    np.testing.assert_allclose(found, distances[:, :2].mean(1), atol=1e-5)
    assert in_model(query[:0], reference, 4, labels)[1].shape == (0, 4)


def test_what_neighbours_say_is_that_of_scikit_learn_and_unknown_labels_say_nothing():
    rng = np.random.default_rng(0)
    query, reference, labels = rng.normal(size=(23, 6)), rng.normal(size=(40, 6)), rng.random((40, 3))
    theirs = KNeighborsRegressor(4, metric="cosine", algorithm="brute").fit(reference, labels).predict(query)
    np.testing.assert_allclose(neighbours_say(query, reference, labels, 4), theirs, atol=1e-6)
    labels[rng.random((40, 3)) < 0.6] = np.nan
    near = in_model(query, reference, 4, np.arange(40))[1]
    for said, mine in zip(neighbours_say(query, reference, labels, 4), labels[near], strict=True):
        wanted = [np.mean(known) if len(known := column[~np.isnan(column)]) else np.nan for column in mine.T]
        np.testing.assert_allclose(said, wanted)
    assert neighbours_say(query[:0], reference, labels, 4).shape == (0, 3)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_neighbours_in_chunks_and_beside_nothing(chunk, monkeypatch):
    monkeypatch.setattr("pipeline.scoring.features.CHUNK", chunk)
    query, reference = np.eye(5)[:, :4].astype(np.float16), np.eye(6)[2:, :4].astype(np.float16)
    # The last query and the last two references are of length 0, as far from everything as a right angle.
    away = in_model(np.repeat(query, 4, 0), reference, 1)[0]
    np.testing.assert_allclose(away, np.repeat([1, 1, 0, 0, 1], 4), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_image_statistics_against_scipy(channels, kind):
    rng, top = np.random.default_rng(0), np.iinfo(kind).max
    images = rng.integers(0, top + 1, (5, 9, 7, channels)).astype(kind)
    images[0] = 0
    images[1, :4] = top
    found, names = image_statistics(images, chunk=2), statistic_names(channels)
    assert found.shape == (5, len(names))
    for image, row in zip(images / top, found, strict=True):
        told = dict(zip(names, row, strict=True))
        assert told["mean"] == pytest.approx(image.mean(), abs=1e-5)
        assert told["sd"] == pytest.approx(image.std(), abs=1e-5)
        assert told["saturated"] == pytest.approx(((image == 0) | (image == 1)).mean())
        laplacian = ndimage.laplace(image.mean(2))[1:-1, 1:-1]
        assert told["sharpness"] == pytest.approx(laplacian.std(), abs=1e-5)
        counts = np.histogram(image.astype(np.float32), 32, (0, 1))[0]
        assert told["entropy"] == pytest.approx(stats.entropy(counts), abs=2e-2)
        for c in range(min(channels, 3) if channels > 1 else 0):
            assert told[f"mean of channel {c}"] == pytest.approx(image[..., c].mean(), abs=1e-5)


def test_tiny_images_and_none():
    assert np.isfinite(image_statistics(np.full((2, 1, 2, 1), 7, np.uint8))).all()
    assert image_statistics(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0, 8)
