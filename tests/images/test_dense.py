import numpy as np
import pytest
from masked import masked

from pipeline.images.augment import RECIPES, augmenter
from pipeline.images.dense import Dense, DenseViews, distances
from pipeline.masks.decide import distance_target
from pipeline.training.mask_job import truth_of


@pytest.fixture
def of(house):
    def build(distance=False, **given):
        job = masked(**given)
        rows, truth = job.table.labelled, truth_of(job)
        depth = distances(job.files.competition, truth, rows, job.table.sizes[rows]) if distance else None
        return job, Dense(job.ragged(rows)[0], truth, rows, depth)

    return build


@pytest.mark.parametrize("given", [{}, {"classes": 3}, {"classes": 3, "masks": "exclusive = true"}])
def test_masks_stand_behind_the_image(of, given):
    _job, dense = of(**given)
    for row in range(len(dense)):
        stack, mask = dense.stack(row), dense.truth[int(dense.rows[row])]
        assert (stack[:, :, :1] == dense.images[row]).all()
        assert (stack[:, :, 1:] == 255 * mask.transpose(1, 2, 0)).all()


def test_distance_is_one_more_mask(of):
    _job, dense = of(distance=True)
    assert dense.masks == 2
    for row in range(3):
        wanted = distance_target(dense.truth.instances(int(dense.rows[row])))
        np.testing.assert_allclose(dense.stack(row)[:, :, 2] / 255, wanted, atol=1 / 509)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("fit", ["resize", "pad", "tiles"])
def test_masks_stay_hard_and_follow_the_image(of, recipe, fit):
    """The image is drawn from its mask, so that wherever the one goes the other must go."""
    _job, dense = of(classes=2)
    for row in range(len(dense)):
        dense.images[row]  # read-only memory: views must copy
    size = (16, 16) if fit != "tiles" else (8, 8)
    views = DenseViews(dense, augmenter(recipe, masks=2), 3, fit, size)
    agree, moved = [], 0
    for row in range(len(dense)):
        view, which = views[1, row, row]
        assert which == row
        assert view.shape == (*size, 3)
        assert view.dtype == np.uint8
        assert set(np.unique(view[:, :, 1:])) <= {0, 255}
        if recipe not in ("heavy", "resnet", "inception", "strong", "upright"):  # which change brightness, or cut holes
            bright = view[:, :, 0] > 95
            agree.append((bright == view[:, :, 1:].any(2)).mean())
        plain = DenseViews(dense, augmenter("none", masks=2), 3, fit, size)[1, row, row][0]
        moved += (plain != view).any()
    assert not agree or np.mean(agree) > 0.9
    assert (moved > len(dense) / 2) == (recipe != "none")


def test_sixteen_bits(of):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 65535, (16, 16, 3)).astype(np.uint16)
    stack[:, :, 1:] = 65535 * (rng.random((16, 16, 2)) < 0.4)
    for recipe in ("medium", "upright"):
        view = augmenter(recipe, masks=2)(stack, 5)
        assert view.dtype == np.uint16
        assert set(np.unique(view[:, :, 1:])) == {0, 65535}
    floats = (stack / 65535).astype(np.float32)
    assert set(np.unique(augmenter("medium", masks=2)(floats, 5)[:, :, 1:])) == {0, 1}


def test_views_depend_on_the_place_too(of):
    _job, dense = of()
    views = DenseViews(dense, augmenter("medium", masks=1), 3, "tiles", (8, 8))
    assert (views[0, 4, 1][0] == views[0, 4, 1][0]).all()
    seen = {views[place][0].tobytes() for place in [(0, 4, 1), (0, 4, 2), (1, 4, 1)]}
    assert len(seen) == 3


def test_tiles_show_what_is_asked_for(of):
    _job, dense = of(classes=2, more="", ragged=False)
    for show, wanted in [((2,), lambda m, c: m.any()), ((0, 1), lambda m, c: m[:, :, c].any())]:
        views = DenseViews(dense, augmenter("none", masks=2), 0, "tiles", (4, 4), show)
        for row in range(len(dense)):
            for nth in (0, 1):
                there = dense.truth[int(dense.rows[row])]
                if there.any() if show == (2,) else there[nth].any():
                    assert wanted(views[0, row, nth][0][:, :, 1:], nth)
