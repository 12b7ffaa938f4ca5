"""Masks continued from the tile beside: what goes on, whose labels may speak, and that the gate has the last word."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salt import Truth, metric_of, packed, problem_of

from pipeline.forecast.mask_fill import Beside, continued, stays
from pipeline.forecast.mask_survey import Action, Goal, Source, mask_of
from pipeline.forecast.masks import FILL, process, redo
from pipeline.masks.decide import Decision
from pipeline.scoring.mask_choice import choose
from pipeline.scoring.mask_variants import default_grid, measure

N = 90
STEPS = [(1, 0), (0, 1), (-1, 0), (0, -1)]


def turned(step):
    """A step of an image that was turned by a quarter, as numpy turns it."""
    down, right = step
    return -right, down


@given(st.integers(0, 999), st.sampled_from(STEPS), st.integers(2, 7), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_what_goes_on_does_so_in_every_direction(seed, step, height, width):
    rng = np.random.default_rng(seed)
    mask, theirs = rng.random((height, width)) < 0.5, rng.random((height, width)) < 0.5
    if seed % 2:
        theirs = np.broadcast_to(theirs[:1] if step[0] else theirs[:, :1], theirs.shape)
    found = continued(mask, [(theirs, step)])
    assert np.array_equal(continued(np.rot90(mask), [(np.rot90(theirs), turned(step))]), np.rot90(found))
    # By hand: the lines of the neighbour, from the shared border on.
    lines = {(1, 0): theirs[::-1], (-1, 0): theirs, (0, 1): theirs.T[::-1], (0, -1): theirs.T}[step]
    half = lines[: max(1, round(len(lines) / 2))]
    goes_on = all((line == lines[0]).all() for line in half) and 0 < lines[0].sum() < len(lines[0])
    assert (stays(theirs, step) is not None) == goes_on
    wanted = np.broadcast_to(lines[0] if step[0] else lines[0][:, None], mask.shape) if goes_on else mask
    assert np.array_equal(found, wanted)


def test_the_nearer_of_two_is_followed():
    above, below = np.zeros((2, 4, 4), bool)
    above[:, 0] = below[:, 3] = True
    found = continued(np.ones((4, 4), bool), [(above, (1, 0)), (below, (-1, 0))])
    assert np.array_equal(found, np.concatenate([above[:2], below[2:]]))
    assert continued(found, [(np.ones((4, 4), bool), (1, 0))]) is not None
    assert np.array_equal(continued(found, [(np.ones((4, 4), bool), (1, 0))]), found)


@given(st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_only_scored_rows_of_other_folds_speak(seed):
    rng = np.random.default_rng(seed)
    folds = rng.integers(-4, 3, 12)
    links = np.column_stack([rng.integers(12, size=(20, 2)), np.eye(2, dtype=int)[rng.integers(2, size=20)]])
    rows = np.flatnonzero((folds >= 0) | (folds == -1))
    found = Beside.of([], links, rows, folds)
    for row, told in zip(rows.tolist(), found.told, strict=True):
        wanted = [(a, (d, r)) for a, b, d, r in links.tolist() if b == row]
        wanted += [(b, (-d, -r)) for a, b, d, r in links.tolist() if a == row]
        wanted = [(n, step) for n, step in wanted if folds[n] >= 0 and folds[n] != folds[row]]
        assert sorted(told) == sorted(wanted)


def columns(n=N, size=12):
    """Three tiles above each other of every column of salt; the maps see it as through fog."""
    rng = np.random.default_rng(2)
    masks, maps = [], []
    for _ in range(n // 3):
        line = np.zeros(size, bool)
        start = rng.integers(1, size - 4)
        line[start : start + rng.integers(2, 4)] = True
        masks += [np.tile(line, (size, 1))[None]] * 3
    for mask in masks:
        maps.append(np.clip(0.5 + 0.12 * (mask - 0.5) + rng.normal(0, 0.2, mask.shape), 0.01, 0.99))
    links = np.array([[i, i + 1, 1, 0] for i in range(n - 1) if i % 3 < 2])
    return packed(maps), Truth(masks), links


def posed(maps, truth, links):
    problem = problem_of(truth, "iou")
    n, grid = len(maps), default_grid(1, False, False, False)
    beside = Beside.of(truth, links, np.arange(n), problem.folds)
    source = Source(maps, [], np.array([m.shape[1:] for m in truth.masks]), np.zeros((n, 0)), beside=beside)
    goal = Goal(metric_of(problem), truth, np.arange(n))
    return problem, source, goal, choose(problem, grid, measure(maps, truth, goal.rows, grid, goal.metric))


@pytest.fixture(scope="module")
def found():
    case = posed(*columns())
    return case, process(*case)


def test_continued_columns_pass_the_gate(found):
    (problem, source, goal, choice), output = found
    assert source.beside.speaks.mean() > 0.5
    facts = output.evidence["rules"][FILL]
    assert facts["passed"]
    assert facts["lower"] > 0
    held = np.array([goal.metric.stats(goal.truth[i], output.oof.mask(i)) for i in range(N)])
    assert output.stats == pytest.approx(held)
    assert problem.judge(output.stats) > problem.judge(choice.stats) + 0.1
    rows = json.loads(json.dumps([output.oof.told(i) for i in range(N)]))
    assert any(row.get("fill") for row in rows)
    assert all((redo(source, i, rows[i]) == output.oof.mask(i)).all() for i in range(0, N, 7))
    plan = replace(output.plan, rule=FILL).apply(source)
    for i in range(0, N, 7):
        action = plan.actions[plan.which[i]]
        assert action.fill == source.beside.speaks[i]


def test_the_own_fold_never_speaks(found):
    (problem, source, goal, _), _ = found
    masks = list(goal.truth.masks)
    for i in np.flatnonzero(problem.folds == 2):
        masks[i] = np.roll(masks[i], 5, axis=2)
    other = replace(source, beside=Beside(Truth(masks), source.beside.told))
    mine = np.flatnonzero(problem.folds == 2)
    filled = Action((Decision(),), fill=True)
    assert all((mask_of(source, i, filled) == mask_of(other, i, filled)).all() for i in mine)


def test_wrong_neighbours_are_refused():
    maps, truth, links = columns()
    links[:, 1] = np.random.default_rng(0).permutation(links[:, 1])
    output = process(*posed(maps, truth, links))
    assert not output.evidence["rules"][FILL]["passed"]
    assert output.adopted != FILL


def test_candidates_are_told_as_they_were_where_nothing_is_continued():
    plain = Action((Decision(),))
    assert set(plain.as_dict()) == {"masks", "member"}
    assert Action.from_dict(json.loads(json.dumps(plain.as_dict()))) == plain
    filled = replace(plain, fill=True)
    assert Action.from_dict(json.loads(json.dumps(filled.as_dict()))) == filled
