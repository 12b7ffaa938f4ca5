"""A student of masks learns the labelled rows of other folds, and the soft masks that name it, at their weights."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from masked import TEST, N, job_of, masked

from pipeline.images.dense import DenseViews
from pipeline.masks.decide import distance_target, resize
from pipeline.masks.maps import layout, pack, write_flat
from pipeline.masks.truth import components
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_json, read_npy, write_json
from pipeline.store.table import half_of
from pipeline.store.tracking import Tracker
from pipeline.training.fold import fit_fold
from pipeline.training.job import check_names
from pipeline.training.mask_fold import lessons_of
from pipeline.training.mask_job import maps_layout
from pipeline.training.mask_lessons import mask_course
from pipeline.training.sampling import Batches
from pipeline.training.shelf import join_halves, predict_fold
from pipeline.training.which import Which

STUDENT = "[student]\nshare = 0.25\n"


def school(more="", scale=1.0, classes=1, halves=True, **given):
    """A student's job; its pseudo-labels are of the test rows in another order, in blocks of random probabilities."""
    teacher = masked(classes=classes, **given)
    files, table, rng = RunFiles("toy/p"), teacher.table, np.random.default_rng(5)
    files.config.write_text('stage = "pseudo"\nrun = "a"\n')
    frames = []
    for k in range(3):
        order = rng.permutation(TEST)[: TEST - (k == 2)]
        ids = table.ids[table.test][order]
        half = half_of(ids) if halves else -1
        weight = 0.5 + rng.random(len(ids)) / 2
        frames.append(pd.DataFrame({"id": ids, "repeat": 0, "fold": k, "half": half, "weight": weight}))
        where = layout(table.sizes[table.test][order], classes, 0, scale)
        parts = [pack(rng.random((classes, *size)), np.ones(classes)) for size in where.sizes]
        files.folder.mkdir(parents=True, exist_ok=True)
        write_flat(files.pseudo_maps(0, k), parts, where.total)
    pd.concat(frames).to_csv(files.pseudo, index=False)
    write_json(files.receipt, {"maps": {"extra": 0, "scale": scale}})
    text = RunFiles("toy/a").config.read_text().replace('stage = "train"\n', 'stage = "train"\npseudo = "p"\n')
    RunFiles("toy/s").config.write_text(text + more)
    return replace(job_of(teacher.competition, table, "toy/s"), halves=halves), pd.concat(frames)


def course_of(job, which):
    images, _ = job.ragged(job.table.labelled)
    gold = np.flatnonzero(~np.isin(job.table.folds[job.table.labelled], [*which.held_out, -2]))
    return mask_course(job, which, images, lessons_of(job, gold)[0])


def said(job, frame, which, i):
    """What the file says of a test row, found by its own arithmetic."""
    mine = frame[frame["fold"] == which.held_out[0]].reset_index(drop=True)
    at = mine.index[mine["id"] == job.table.ids[job.table.test][i]][0]
    test = list(job.table.ids[job.table.test])
    sizes = [job.table.sizes[job.table.test][test.index(name)] for name in mine["id"]]
    start = sum(int(np.prod(size)) + 1 for size in sizes[:at])
    flat = read_npy(RunFiles("toy/p").pseudo_maps(0, which.held_out[0]))
    return np.asarray(flat[start : start + np.prod(sizes[at])], np.float32).reshape(1, *sizes[at])


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("fold", [0, 2])
def test_a_student_learns_its_half_of_the_masks_that_name_it(house, fold, half):
    job, frame = school(STUDENT)
    which = Which((fold,), half)
    course = course_of(job, which)
    mine = frame[(frame["fold"] == fold) & (frame["half"] == half)].set_index("id")
    ids = job.table.ids[course.rows]
    assert set(ids[course.lessons.extra]) == set(mine.index)
    assert course.lessons.share == 0.25
    assert len(course.images) == len(course.weights) == len(ids)
    assert course.weights[course.lessons.extra].numpy() == pytest.approx(mine["weight"][ids[course.lessons.extra]])
    assert (course.weights[course.lessons.gold] == 1).all()
    assert set(ids[course.lessons.gold]).isdisjoint(ids[course.lessons.extra])
    assert sorted(course.learnt) == sorted(course.rows[np.r_[course.lessons.gold, course.lessons.extra]])
    labelled = len(job.table.labelled)
    for place in course.lessons.extra:
        i = place - labelled
        assert (course.images[place] == job.ragged(job.table.test)[0][i]).all()
        size = tuple(job.table.sizes[job.table.test][i])
        assert course.soft.of(place, size) == pytest.approx(said(job, frame, which, i))
        doubled = (2 * size[0], 2 * size[1])
        assert course.soft.of(place, doubled) == pytest.approx(resize(said(job, frame, which, i), doubled))


def test_soft_masks_stand_behind_the_image(house):
    from pipeline.images.augment import augmenter
    from pipeline.images.dense import Dense, distances
    from pipeline.training.mask_job import truth_of

    job, frame = school(STUDENT)
    which, rows, truth = Which((0,), 0), job.table.labelled, truth_of(job)
    course = course_of(job, which)
    depth = distances(job.files.competition, truth, rows, job.table.sizes[rows])
    dense = Dense(course.images, truth, rows, depth, course.soft)
    for place in course.lessons.extra:
        mask = said(job, frame, which, place - len(rows))[0]
        stack = dense.stack(place)
        assert stack.dtype == np.uint8
        assert stack[:, :, 1] / 255 == pytest.approx(mask, abs=1 / 509)
        assert stack[:, :, 2] / 255 == pytest.approx(distance_target(components(mask > 0.5)), abs=1 / 509)
    views = DenseViews(dense, augmenter("none", masks=2), 3, "tiles", (8, 8), (1,))
    place = int(course.lessons.extra[0])
    corners = {views[0, place, nth][0].tobytes() for nth in range(40)}
    assert len(corners) > 5, "soft masks show everything a little: their tiles lie anywhere"


def test_from_config_to_shelf_in_halves(house):
    job, frame = school(STUDENT + "[predict]\nshelf_scale = 0.5\n")
    check_names(job)
    for half in (0, 1):
        which = Which((1,), half)
        fit_fold(job, which, Tracker(None))
        predict_fold(job, which, Tracker(None))
        files, table = which.files(job.files), job.table
        rows = read_npy(files.rows)
        mine = frame[(frame["fold"] == 1) & (frame["half"] == half)]
        assert set(table.ids[rows[np.isin(rows, table.test)]]) == set(mine["id"])
        assert len(rows) == N * 2 // 3 + len(mine)
        named = read_json(files.receipt)
        assert named["half"] == half
    which = Which((1,))
    join_halves(job, which)
    files, receipt = which.files(job.files), read_json(which.files(job.files).receipt)
    assert receipt["halves"] == [0, 1]
    held = table.scored[table.folds[table.scored] == 1]
    for name, rows in (("oof", held), ("test", table.test), ("holdout", table.holdout)):
        where, half = maps_layout(job, rows), half_of(table.ids[rows])
        whole, *students = (read_npy(getattr(part, name)) for part in (files, files.half(0), files.half(1)))
        assert not np.array_equal(*students)
        for i, (start, end) in enumerate(zip(where.starts[:-1], where.starts[1:], strict=True)):
            # Each is predicted by the student of the other half.
            assert np.array_equal(whole[start:end], students[1 - half[i]][start:end])


def test_batches_hold_rows_of_both_kinds(house):
    job, _frame = school(STUDENT, halves=False)
    course = course_of(job, Which((0,)))
    batches = Batches(course.lessons, 8, 0, 2, numbered=True)
    assert [sum(row in course.lessons.extra for _, row, _ in batch) for batch in batches] == [2] * batches.steps


def test_what_cannot_be_learnt_is_told(house):
    job, frame = school("[sampling]\nequal = true\n")
    job = replace(
        job, config=job.config.model_copy(update={"image": job.config.image.model_copy(update={"fit": "tiles"})})
    )
    with pytest.raises(UserError, match=r"sampling.equal"):
        check_names(job)
    frame[frame["fold"] != 1].to_csv(RunFiles("toy/p").pseudo, index=False)
    with pytest.raises(UserError, match="has no rows for fold 1"):
        course_of(job, Which((1,), 0))
