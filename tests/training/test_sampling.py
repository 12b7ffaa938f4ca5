"""What makes a batch: even streams of labelled and pseudo-labelled rows, the same after any kill."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.cache import Rows
from pipeline.nets.machine import Machine, to_device
from pipeline.training.sampling import Batches, Lessons, Views, collate

CPU = Machine("cpu", "fp32", 1)
EXTRA = 1000  # pseudo-labelled rows are those from here on


def lessons(gold, extra, **how):
    return Lessons(np.arange(gold) * 3, EXTRA + np.arange(extra), **how)


def drawn(given, size, seed=1, epochs=9, only=None):
    """The rows of each batch of each epoch, each epoch by a sampler of its own, as after a kill."""
    found = []
    for epoch in range(epochs) if only is None else [only]:
        batches = Batches(given, size, seed, epochs)
        batches.epoch = epoch
        found.append([[row for _, row in batch] for batch in batches])
    return found


def rows_of(epochs):
    return [row for batches in epochs for batch in batches for row in batch]


@pytest.mark.parametrize(
    "rows, size, lengths", [(20, 6, [5, 5, 5, 5]), (7, 3, [3, 2, 2]), (3, 8, [3]), (6, 1, [1] * 6)]
)
def test_batches_cover_every_row_once(rows, size, lengths):
    batches = Batches(Lessons.of(np.arange(rows) * 10), size, 1, 9)
    assert len(batches) == len(lengths)
    for batches.epoch in range(3):
        found = list(batches)
        assert [len(batch) for batch in found] == lengths
        assert sorted(row for batch in found for _, row in batch) == (np.arange(rows) * 10).tolist()
        assert {epoch for batch in found for epoch, _ in batch} == {batches.epoch}


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_labelled_rows_alone_are_a_seeded_permutation(gold, size, seed):
    given = lessons(gold, 0)
    for epoch, batches in enumerate(drawn(given, size, seed, 3)):
        order = np.random.default_rng([seed, epoch]).permutation(given.gold)
        assert batches == [part.tolist() for part in np.array_split(order, -(-gold // size))]


def test_batches_depend_on_seed_and_epoch():
    def order(seed, epoch):
        batches = Batches(Lessons.of(np.arange(30)), 7, seed, 9)
        batches.epoch = epoch
        torch.rand(1)
        return tuple(row for batch in batches for _, row in batch)

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


mixes = {
    "gold": st.integers(1, 30),
    "extra": st.integers(1, 50),
    "size": st.integers(2, 16),
    "share": st.floats(0.01, 0.99),
    "seed": st.integers(0, 99),
}


def runs(rows, pool):
    """Split a stream into its rounds: each must be a permutation of the pool, the last one a part of one."""
    for start in range(0, len(rows), len(pool)):
        part = rows[start : start + len(pool)]
        assert len(set(part)) == len(part)
        assert set(part) <= set(pool)


@settings(deadline=None)
@given(**mixes)
def test_mixed_batches_are_even_over_the_epochs(gold, extra, size, share, seed):
    given, epochs = lessons(gold, extra, share=share), 7
    found = drawn(given, size, seed, epochs)
    wanted = min(max(round(share * size), 1), size - 1)
    assert (
        {len(batches) for batches in found} == {-(-gold // size)} == {len(Batches(Lessons.of(given.gold), size, 1, 9))}
    )
    for batch in (batch for batches in found for batch in batches):
        assert (len(batch), sum(row >= EXTRA for row in batch)) == (size, wanted)
    rows = rows_of(found)
    for pool, stream in ((given.extra, [r for r in rows if r >= EXTRA]), (given.gold, [r for r in rows if r < EXTRA])):
        runs(stream, pool.tolist())
        counts = Counter(stream)
        assert max(counts.values()) - min(counts[row] for row in pool.tolist()) <= 1


@settings(deadline=None, max_examples=40)
@given(**mixes, mode=st.sampled_from(["mixed", "finetune"]), only=st.integers(0, 6))
def test_any_epoch_is_the_same_after_a_kill(gold, extra, size, share, seed, mode, only):
    """One sampler that goes through all epochs, as without a kill."""
    given = lessons(gold, extra, share=share, mode=mode)
    batches = Batches(given, size, seed, 7)
    through = []
    for batches.epoch in range(7):
        through.append([[row for _, row in batch] for batch in batches])
    assert [through[only]] == drawn(given, size, seed, 7, only)


def test_mixed_batches_depend_on_the_seed():
    assert drawn(lessons(20, 20), 8, seed=1) != drawn(lessons(20, 20), 8, seed=2)


def test_extra_rounds_are_not_the_labelled_ones():
    """The same seed must not put the pseudo-labels in the order of the labelled rows."""
    (batches,) = drawn(lessons(24, 24), 8, epochs=1)
    order = rows_of([batches])
    assert [row // 3 for row in order if row < EXTRA] != [row - EXTRA for row in order if row >= EXTRA]


@settings(deadline=None)
@given(**mixes)
def test_finetune_has_two_phases(gold, extra, size, share, seed):
    given, epochs = lessons(gold, extra, share=share, mode="finetune"), 7
    found = drawn(given, size, seed, epochs)
    for epoch, batches in enumerate(found):
        assert len(batches) == -(-gold // size)
        assert {row >= EXTRA for row in rows_of([batches])} == {epoch < min(share * epochs, epochs - 1)}
        assert {len(batch) for batch in batches} == {size}
    rows = rows_of(found)
    runs([row for row in rows if row >= EXTRA], given.extra.tolist())
    counts = Counter(row for row in rows if row < EXTRA)
    assert not counts or max(counts.values()) - min(counts[row] for row in given.gold.tolist()) <= 2


@pytest.mark.parametrize(
    "share, epochs, alone", [(0.5, 8, 4), (0.25, 8, 2), (0.3, 8, 3), (0.01, 3, 1), (0.99, 3, 2), (0.5, 1, 0)]
)
def test_finetune_phases_are_counted_in_epochs(share, epochs, alone):
    """The last epoch is always of labelled rows: a student that never saw them would not be one."""
    found = drawn(lessons(12, 12, share=share, mode="finetune"), 4, epochs=epochs)
    assert [batches[0][0] >= EXTRA for batches in found] == [epoch < alone for epoch in range(epochs)]


def test_batch_normalisation_after_the_last_epoch_sees_labelled_rows():
    """SWA's statistics are taken in one more epoch, which must be of what the network is used on."""
    batches = Batches(lessons(20, 9, share=0.5, mode="finetune"), 5, 1, 4)
    batches.epoch = 4
    assert all(row < EXTRA for batch in batches for _, row in batch)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=25), st.integers(2, 9), st.integers(0, 99))
def test_draws_are_never_off_by_more_than_one(draw, size, seed):
    weights = np.array(draw, float)
    given = lessons(len(draw), 0, draw=weights)
    due = weights / weights.sum() * len(draw)
    for batches in drawn(given, size, seed, 5):
        counts = Counter(rows_of([batches]))
        assert sum(counts.values()) == len(draw)
        assert len(batches) == -(-len(draw) // size)
        for row, wanted in zip(given.gold.tolist(), due, strict=True):
            assert np.floor(wanted - 1e-9) <= counts[row] <= np.ceil(wanted + 1e-9)


def test_draws_are_right_on_average():
    weights = np.r_[np.ones(12), np.full(5, 2.5), 0.3]
    given, epochs = lessons(18, 0, draw=weights), 600
    counts = Counter(rows_of(drawn(given, 6, 2, epochs)))
    found = np.array([counts[row] for row in given.gold.tolist()]) / epochs
    # The sd of one draw is at most 1/2, so 5 se are 0.1.
    np.testing.assert_allclose(found, weights / weights.sum() * 18, atol=0.1)


def test_even_draws_leave_every_row_once():
    for batches in drawn(lessons(17, 0, draw=np.full(17, 2.0)), 4):
        assert max(Counter(rows_of([batches])).values()) == 1


@settings(deadline=None)
@given(st.integers(2, 30), st.sampled_from([0.3, 0.5, 1.0]), st.integers(0, 99), st.booleans())
def test_curriculum_goes_from_the_easier_half_to_all(gold, curriculum, seed, weighted):
    epochs, rng = 10, np.random.default_rng(seed)
    hardness = rng.permutation(gold)
    draw = np.where(rng.random(gold) < 0.3, 2.0, 1.0) if weighted else None
    given = lessons(gold, 0, difficulty=hardness.astype(float), curriculum=curriculum, draw=draw)
    for epoch, batches in enumerate(drawn(given, 4, seed, epochs)):
        counts = Counter(rows_of([batches]))
        done = epoch / (curriculum * epochs)
        allowed = gold if done >= 1 else max(1, int(gold * (0.5 + 0.5 * done)))
        pool = given.gold[np.argsort(hardness)[:allowed]].tolist()
        assert len(rows_of([batches])) == gold  # the number of steps stays
        assert set(counts) <= set(pool)
        weights = np.ones(gold) if draw is None else draw
        due = weights[np.argsort(hardness)[:allowed]]
        due = due / due.sum() * gold
        for row, wanted in zip(pool, due, strict=True):
            assert np.floor(wanted - 1e-9) <= counts[row] <= np.ceil(wanted + 1e-9)
    assert allowed >= gold - 2


def test_rows_of_unknown_difficulty_come_last():
    hardness = np.array([np.nan, 0.1, 0.2, np.nan, 0.3, 0.4])
    given = lessons(6, 0, difficulty=hardness, curriculum=0.5)
    (first, *_) = drawn(given, 3)
    assert set(rows_of([first])) == {3, 6, 12}


@pytest.mark.parametrize("mode, share", [("mixed", 0.5), ("mixed", 0.25), ("finetune", 0.3)])
def test_the_curriculum_is_a_share_of_the_epochs_whatever_else_is_drawn(mode, share):
    given = lessons(40, 25, share=share, mode=mode, difficulty=np.arange(40.0), curriculum=0.5)
    found = drawn(given, 8, epochs=20)
    gold = given.gold.tolist()
    assert gold[-1] not in rows_of(found[:10])
    late = Counter(rows_of(found[12:]))
    assert max(late[row] for row in gold) - min(late[row] for row in gold) <= 1


def test_extra_rows_are_never_drawn_by_tags():
    """Weights and difficulties are of the labelled rows."""
    given = lessons(8, 6, share=0.5, draw=np.r_[np.full(4, 3.0), np.ones(4)])
    counts = Counter(rows_of(drawn(given, 8, epochs=6)))
    assert len({counts[row] for row in given.extra.tolist()}) == 1
    assert min(counts[row] for row in given.gold[:4].tolist()) > max(counts[row] for row in given.gold[4:].tolist())


def test_views_depend_on_seed_epoch_and_row():
    views = {
        (seed, epoch, row): Views(np.zeros(4), lambda image, draw: draw, seed)[epoch, row]
        for seed in range(3) for epoch in range(3) for row in range(4)
    }  # fmt: skip
    assert all(row == key[2] for key, (_, row) in views.items())
    assert len({draw for draw, _ in views.values()}) == 36
    assert Views(np.zeros(4), lambda image, draw: draw, 1)[2, 3] == views[1, 2, 3]


def test_views_of_two_arrays():
    both = Rows([np.arange(4), np.arange(10, 13)], np.zeros((7, 0)))
    views = Views(both, lambda image, draw: image, 0)
    assert [int(views[0, row][0]) for row in range(len(both))] == [0, 1, 2, 3, 10, 11, 12]
    np.testing.assert_array_equal(both[np.array([5, 0, 6, 3])], [11, 0, 12, 3])


@pytest.mark.parametrize("dtype, full", [(np.uint8, 255), (np.uint16, 65535)])
def test_collate_and_to_device(dtype, full):
    image = np.arange(24, dtype=dtype).reshape(2, 4, 3) * (full // 23)
    batch, rows = collate([(image, 4), (image[::-1], 2)])
    assert rows.tolist() == [4, 2]
    x = to_device(batch, CPU)
    assert (x.dtype, x.shape) == (torch.float32, (2, 3, 2, 4))
    np.testing.assert_allclose(x[0].permute(1, 2, 0), image / full, rtol=1e-6)
    assert torch.equal(x[1], x[0].flip(1))


def shown(count=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    shows = rng.random((count, classes)) < [0.5, 0.2, 0.05]
    shows[0, 2] = True
    shows[-9:] = False
    return Lessons(np.arange(count) * 10, np.zeros(0, int), shows=shows)


def epochs_of(lessons, batch_size=8, epochs=5, seed=1):
    batches, found = Batches(lessons, batch_size, seed, epochs, numbered=True), []
    for epoch in range(epochs):
        batches.epoch = epoch
        found.append(list(batches))
    return found


def test_numbered_batches_count_the_places():
    for number, batches in enumerate(epochs_of(Lessons.of(np.arange(21)))):
        assert [epoch for batch in batches for epoch, _, _ in batch] == [number] * 21
        assert [place for batch in batches for _, _, place in batch] == list(range(21))


def test_the_share_of_masks_goes_from_first_to_last():
    lessons = replace(shown(), non_empty=(0.9, 0.5))
    full = set(lessons.gold[lessons.shows.any(1)].tolist())
    shares = [np.mean([row in full for batch in epoch for _, row, _ in batch]) for epoch in epochs_of(lessons)]
    np.testing.assert_allclose(shares, [0.9, 0.8, 0.7, 0.6, 0.5], atol=0.0126)
    for epoch in epochs_of(lessons):
        counts = np.unique([row for batch in epoch for _, row, _ in batch if row in full], return_counts=True)[1]
        assert np.ptp(counts) <= 1  # none comes twice before all have come, but for the last round
    assert epochs_of(lessons) == epochs_of(lessons)
    assert epochs_of(lessons) != epochs_of(lessons, seed=2)


@pytest.mark.parametrize("keep", [slice(0, 20), slice(-9, None)])
def test_all_with_masks_or_none(keep):
    base = shown()
    shows = base.shows[keep] | (keep.start == 0)
    lessons = Lessons(base.gold[keep], base.extra, shows=shows, non_empty=(0.8, 0.2))
    for epoch in epochs_of(lessons):
        rows = [row for batch in epoch for _, row, _ in batch]
        assert sorted(rows) == sorted(lessons.gold.tolist())


def test_classes_take_turns():
    lessons = replace(shown(), equal=True)
    place_of = {row: n for n, row in enumerate(lessons.gold.tolist())}
    rare = set()
    for epoch in epochs_of(lessons, batch_size=9):
        rows = [(place, row) for batch in epoch for _, row, place in batch]
        assert len(rows) == 40
        assert all(lessons.shows[place_of[row], place % 3] for place, row in rows)
        rare |= {row for place, row in rows if place % 3 == 2}
    assert rare == set(lessons.gold[lessons.shows[:, 2]].tolist())


def test_a_class_that_is_nowhere_has_no_turn():
    base = shown()
    lessons = replace(base, shows=base.shows & [True, False, True], equal=True)
    place_of = {row: n for n, row in enumerate(lessons.gold.tolist())}
    for epoch in epochs_of(lessons):
        for batch in epoch:
            assert all(lessons.shows[place_of[row], 0 if place % 2 == 0 else 2] for _, row, place in batch)
