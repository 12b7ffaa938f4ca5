"""Rows drawn so that classes are seen more evenly: against counts by hand, and scikit-learn's class weights."""

from collections import Counter

import numpy as np
import pytest
from house import write
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS as TASKS
from school import job_of, learn
from sklearn.utils.class_weight import compute_class_weight

from pipeline.images.cache import Rows
from pipeline.images.ragged import Ragged, Stretch
from pipeline.scoring.clusters import shrink
from pipeline.store.errors import UserError
from pipeline.store.imbalance import Sampling
from pipeline.training import balance as balancing
from pipeline.training.balance import balanced, evened, shows_of, small
from pipeline.training.sampling import Batches, Lessons
from pipeline.training.switches import check_switches

NAMES = ["a", "b", "c"]


def epochs_of(y, how, classes=3, epochs=40, size=8, extra=0, seed=1):
    """The classes (or the rows, of labels) that are drawn, epoch by epoch."""
    shows = shows_of(TASKS["multiclass" if y.ndim == 1 else "multilabel"], y, classes)
    lessons = balanced(Lessons.of(np.arange(len(y))), shows, NAMES, Sampling(**how))
    batches, found = Batches(lessons, size, seed, epochs), []
    for batches.epoch in range(epochs):
        found.append([[row for _, row, *_ in batch] for batch in batches])
    return lessons, found


def shares(y, found):
    drawn = [y[row] for epoch in found for batch in epoch for row in batch]
    return np.array([drawn.count(c) for c in range(3)]) / len(drawn)


Y = np.repeat([0, 1, 2], [60, 25, 4])


@pytest.mark.parametrize("balance, power", [("sqrt", 0.5), ("parity", 1.0), ("balanced", 1.0), ("under", 1.0)])
def test_classes_come_as_often_as_they_are_to(balance, power):
    _, found = epochs_of(Y, {"balance": balance})
    counts = np.bincount(Y) ** (1 - power)
    np.testing.assert_allclose(shares(Y, found), counts / counts.sum(), atol=0.01)
    assert {len(epoch) for epoch in found} == {-(-len(Y) // 8)}  # as many steps as without
    assert {sum(map(len, epoch)) for epoch in found} == {len(Y)}


def test_parity_is_the_balanced_weight_of_scikit_learn():
    lessons, _ = epochs_of(Y, {"balance": "parity"})
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=Y)[Y]
    np.testing.assert_allclose(lessons.draw / lessons.draw.mean(), wanted / wanted.mean(), rtol=1e-12)


def test_listed_classes_come_so_many_times_as_often():
    _, found = epochs_of(Y, {"repeat": {"c": 4, "b": 2}})
    weight = np.array([60, 2 * 25, 4 * 4])
    np.testing.assert_allclose(shares(Y, found), weight / weight.sum(), atol=0.01)


def test_a_row_of_several_labels_is_drawn_as_its_most_wanted_one():
    y = np.array([[1, 0, 0]] * 6 + [[1, 1, 0]] * 2 + [[0, 0, 1]] + [[0, 0, 0]] * 3)
    lessons, _ = epochs_of(y, {"repeat": {"b": 3, "a": 2}})
    assert lessons.draw.tolist() == [2] * 6 + [3] * 2 + [1] * 4
    lessons, _ = epochs_of(y, {"balance": "parity"})  # counts 8, 2, 1, and 3 of none
    np.testing.assert_allclose(lessons.draw, [1] * 6 + [4] * 2 + [8] + [8 / 3] * 3)


def test_classes_take_turns_in_every_batch():
    _, found = epochs_of(Y, {"balance": "balanced"}, size=9)
    for batch in (batch for epoch in found for batch in epoch):
        counts = Counter(Y[batch].tolist())
        assert max(counts.values()) - min(counts[c] for c in range(3)) <= 1


def test_under_sampling_is_drawn_anew_every_epoch():
    _, found = epochs_of(Y, {"balance": "under"})
    pools = [np.unique([row for batch in epoch for row in batch]) for epoch in found]
    for pool in pools:
        assert np.bincount(Y[pool]).tolist() == [4, 4, 4]
    assert len({tuple(pool) for pool in pools}) > 30
    assert len(np.unique(np.concatenate(pools))) > 0.85 * len(Y)  # over the epochs nothing is thrown away


def test_under_sampling_of_labels_keeps_as_many_rows_of_each():
    rng = np.random.default_rng(0)
    y = (rng.random((80, 3)) < [0.6, 0.4, 0.1]).astype(int)
    lessons, found = epochs_of(y, {"balance": "under"})
    least = np.column_stack([y, ~y.any(1)]).sum(0).min()
    for epoch in found:
        pool = np.unique([row for batch in epoch for row in batch])
        assert (lessons.shows[pool].sum(0) >= least).all()
        assert len(pool) <= 4 * least


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30),
    st.sampled_from(["sqrt", "parity", "balanced", "under"]),
    st.integers(1, 9),
    st.integers(0, 6),
)
def test_any_epoch_is_the_same_after_a_kill(y, balance, size, only):
    """A sampler of its own for each epoch, as in a process that goes on; only labelled rows come."""
    y = np.array(y)
    lessons, through = epochs_of(y, {"balance": balance}, epochs=7, size=size)
    batches = Batches(lessons, size, 1, 7)
    batches.epoch = only
    assert [[row for _, row, *_ in batch] for batch in batches] == through[only]
    assert {row for batch in through[only] for row in batch} <= set(range(len(y)))


def test_a_row_that_comes_again_is_seen_in_another_way():
    lessons, _ = epochs_of(Y, {"balance": "parity"})
    batches = Batches(lessons, 8, 1, 5)
    places = [place for batch in batches for place in batch]
    assert len({place[1] for place in places}) < len(set(places)) == len(places)
    assert len(next(iter(Batches(Lessons.of(np.arange(9)), 3, 1, 5)))[0]) == 2  # others as ever


@pytest.mark.parametrize("balance", ["sqrt", "under"])
def test_counts_are_of_the_rows_that_are_trained_on(school, balance):
    write("n", f'base = "s"\n[sampling]\nbalance = "{balance}"\n')
    for fold in range(3):
        job, course = learn("toy/n", fold, half=0)
        y = job.table.y[job.table.scored, 0].astype(int)
        gold = np.flatnonzero(job.table.folds[job.table.scored] != fold)
        assert np.array_equal(course.lessons.gold, gold)
        assert len(course.lessons.extra)  # pseudo-labels are drawn as ever
        if balance == "sqrt":
            counts = np.bincount(y[gold], minlength=4)
            np.testing.assert_allclose(course.lessons.draw, np.sqrt(counts.max() / counts[y[gold]]))
        else:
            assert np.array_equal(course.lessons.shows[:, :4], np.eye(4)[y[gold]] == 1)


def looks(n=(30, 12, 3), side=16):
    """Images of three looks, so many of each, each with noise of its own."""
    rng = np.random.default_rng(0)
    bright = [np.indices((side, side))[axis] // (side // 2) == half for axis, half in ((1, 0), (0, 0), (0, 1))]
    images = np.stack([120 * bright[look] + rng.integers(0, 60, (side, side)) for look in np.repeat(range(3), n)])
    return np.repeat(range(3), n), images[..., None].astype(np.uint8)


def test_clusters_are_drawn_equally_often_and_rows_of_others_are_not_asked():
    look, images = looks()
    gold = np.flatnonzero(np.arange(45) % 4 != 1)
    images[1::4] = np.random.default_rng(1).integers(0, 256, images[1::4].shape)
    how = Sampling(balance="clusters", clusters=3)
    parts = [Stretch(image.ravel(), np.array([image.shape[:2]]), 1) for image in images]
    rows = Rows([images[:20], images[20:]], np.zeros((45, 0)))
    for source in (images, rows, Ragged(parts)):
        lessons = evened(Lessons.of(gold), small(source, gold), how, 0)
        np.testing.assert_allclose(lessons.draw, 1 / np.bincount(look[gold])[look[gold]])
        batches = Batches(lessons, 8, 0, 30)
        drawn = [row for batches.epoch in range(30) for batch in batches for _, row, *_ in batch]
        np.testing.assert_allclose(np.bincount(look[drawn]) / len(drawn), 1 / 3, atol=0.02)
    tags = Lessons(gold, gold[:0], draw=np.where(gold == 0, 3.0, 1.0))
    np.testing.assert_allclose(evened(tags, small(images, gold), how, 0).draw / lessons.draw, tags.draw)


def test_clusters_of_a_run_are_of_its_own_training_rows_and_stay(school, monkeypatch):
    write("n", 'base = "s"\n[sampling]\nbalance = "clusters"\nclusters = 4\n')
    asked, real = [], balancing.embed
    monkeypatch.setattr(balancing, "embed", lambda made: asked.append(made) or real(made))
    job, course = learn("toy/n", 1, half=0)
    draw = course.lessons.draw
    gold = np.flatnonzero(job.table.folds[job.table.scored] != 1)
    assert np.array_equal(course.lessons.gold, gold)
    np.testing.assert_array_equal(asked[0], shrink(job.images(job.table.scored)[0][gold]))
    assert draw.sum() == pytest.approx(4)
    assert np.array_equal(learn("toy/n", 1, half=0)[1].lessons.draw, draw)
    check_switches(job_of("toy/n"))


def test_the_number_of_clusters_needs_the_switch():
    with pytest.raises(ValueError, match='it needs sampling.balance = "clusters"'):
        Sampling(clusters=5)


def test_draws_by_tags_and_by_classes_multiply():
    lessons = Lessons(np.arange(4), np.zeros(0, int), draw=np.array([1.0, 3.0, 1.0, 3.0]))
    found = balanced(lessons, np.eye(2, dtype=bool)[[0, 0, 0, 1]], NAMES, Sampling(balance="parity"))
    assert found.draw.tolist() == [1, 3, 1, 9]


def test_classes_in_turn_are_no_curriculum(school):
    write("n", 'base = "a"\ntags = "t"\n[difficulty]\nhard = 2.0\n[sampling]\nbalance = "under"\n')
    with pytest.raises(UserError, match="says which rows are drawn"):
        job_of("toy/n")
