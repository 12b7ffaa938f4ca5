"""Which images are learnt from without labels, in which order, and in which views."""

import cv2
import numpy as np
from house import make_competition, prepare, write
from hypothesis import given, settings
from hypothesis import strategies as st
from school import job_of

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.store.files import digest
from pipeline.training.readable import labelled_images
from pipeline.training.unlabelled import Drawn, Pairs, unlabelled_of
from pipeline.training.which import Which


@settings(deadline=None)
@given(
    n=st.integers(1, 12),
    size=st.integers(1, 15),
    steps=st.integers(1, 5),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_none_comes_twice_before_all_have_come(n, size, steps, epochs, seed):
    rows, seen = np.arange(100, 100 + n), []
    for epoch in range(epochs):
        drawn = Drawn(rows, size, steps, seed)  # anew, as after a kill
        drawn.epoch = epoch
        batches = list(drawn)
        assert [len(batch) for batch in batches] == [size] * steps == [size] * len(drawn)
        places = [place for batch in batches for place in batch]
        assert len(set(places)) == size * steps
        assert {place[0] for place in places} == {epoch}
        seen += [row for _, row, _ in places]
    for start in range(0, len(seen), n):
        part = seen[start : start + n]
        assert len(set(part)) == len(part)
    assert set(seen) <= set(rows)


def test_a_pair_is_of_one_image_and_its_geometry_is_the_recipe_s():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 2)).astype(np.uint8)
    pairs = Pairs(Rows([pixels], np.zeros((5, 0))), augmenter("none"), 3)
    view, row = pairs[1, 4, 0]
    assert (view.shape, view.dtype, row) == ((12, 12, 4), np.uint8, 4)
    assert np.array_equal(view[..., :2], pixels[4])
    assert not np.array_equal(view[..., 2:], pixels[4])
    assert np.array_equal(pairs[1, 4, 0][0], view)  # again, in any process
    assert not np.array_equal(pairs[1, 4, 1][0], view)
    assert not np.array_equal(pairs[2, 4, 0][0], view)


def test_a_fold_is_adapted_to_its_own_images_and_test_to_its(house):
    data = make_competition(house, "multiclass")
    contract = house / "configs/toy/competition.toml"
    (data / "more").mkdir()
    for n in range(4):
        cv2.imwrite(str(data / "more" / f"u{n}.png"), np.full((12, 12), 40 * n, np.uint8))
    text = contract.read_text()
    prepare()
    write("n", 'base = "a"\nsemi.method = "mean_teacher"\n')
    job = job_of("toy/n")
    table, (images, _) = job.table, labelled_images(job)
    own = unlabelled_of(job, Which((1,)), images, {})
    scored = np.flatnonzero(table.folds[table.scored] == 1)
    assert np.array_equal(own.rows, scored)
    assert digest(*table.ids[own.table]) == digest(*table.ids[table.folds == 1])
    bad = unlabelled_of(job, Which((1,)), images, {int(scored[0]): "cannot be read"})
    assert np.array_equal(bad.rows, scored[1:])
    assert np.array_equal(bad.table, own.table)
    test = unlabelled_of(job, Which((1,), target="test"), images, {})
    assert np.array_equal(test.table, table.test)
    assert np.array_equal(test.images[test.rows], job.images(table.test)[0][np.arange(len(table.test))])
    contract.write_text(text.replace("[images]", 'unlabelled = "more/*"\n[images]'))
    prepare()
    job = job_of("toy/n")
    table, (images, _) = job.table, labelled_images(job)
    more = unlabelled_of(job, Which((1,)), images, {})
    assert len(more.rows) == len(scored) + 4
    assert (table.folds[more.table[-4:]] == -4).all()
    assert not np.isin(table.test[table.folds[table.test] == -1], more.table).any()
