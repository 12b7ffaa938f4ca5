"""Thresholds, areas and gates are chosen without the fold that they are scored on, and only where it pays."""

import json

import numpy as np
import pytest
from salt import Truth, faint, metric_of, packed, problem_of, smooth
from test_mask_blend import members

from pipeline.masks.decide import Decision, decide
from pipeline.scoring.mask_blend import fit_weights, sample
from pipeline.scoring.mask_choice import as_decision, best_setting, choose, compare, from_decision, gate_gain, report
from pipeline.scoring.mask_shelf import Mixed
from pipeline.scoring.mask_variants import default_grid, measure

GRID = default_grid(1, False, False, False)


def drawn(n=150, seed=0, false=True, size=32, cut=0.5, head=False):
    """Maps whose best threshold is `cut`, with small false objects; with `head`, presence tells of empty masks."""
    rng = np.random.default_rng(seed)
    maps, masks, present = [], [], []
    for _ in range(n):
        field = smooth(rng, size, 4)
        empty = rng.random() < 0.4
        mask = (field > 0.8) & (not empty)
        logit = 4 * (field - 0.8) - (1.0 if empty else 0.0) + np.log(cut / (1 - cut)) + smooth(rng, size, 2)
        if false:
            logit = np.maximum(logit, 3 * (smooth(rng, size, 1) - 2.4))
        maps.append(1 / (1 + np.exp(-logit))[None])
        masks.append(mask[None])
        present.append([np.clip(0.9 * (not empty) + 0.1 * rng.random(), 0, 1)] if head else [1.0])
    return packed(maps, np.array(present)), Truth(masks)


def measured(maps, truth, metric="tgs_precision", grid=GRID, **how):
    problem = problem_of(truth, metric, **how)
    return problem, measure(maps, truth, np.arange(len(maps)), grid, metric_of(problem))


def test_best_by_hand():
    problem, stats = measured(*drawn(60))
    rows = problem.folds != 2
    means = [problem.part(rows).judge(stats[rows, g]) for g in range(len(GRID))]
    assert best_setting(problem, GRID, stats, rows) == GRID[int(np.argmax(means))]
    assert best_setting(problem, GRID[:1], stats[:, :1], rows) == GRID[0]


@pytest.mark.parametrize("metric", ["tgs_precision", "dice_pooled"])
def test_finds_threshold_and_area(metric):
    maps, truth = drawn(cut=0.35)
    problem, stats = measured(maps, truth, metric)
    found = choose(problem, GRID, stats)
    assert found.method == "optimal"
    assert found.deployed[0].threshold < 0.5
    told = report(problem, found)
    assert told["fixed"] < told["score"] <= told["in_sample"] + 1e-9
    assert told["optimal"]["lower"] > 0
    # The published statistics are those of the very masks that the fold's own setting makes.
    for k, each in found.by_fold.items():
        i = int(np.flatnonzero(problem.folds == k)[3])
        mask = decide(maps[i], maps.present(i), each, truth[i].shape[1:])
        assert found.stats[i] == pytest.approx(metric_of(problem).stats(truth[i], mask))


@pytest.mark.parametrize("method", ["optimal", "auto"])
def test_a_fold_never_sees_its_own_labels(method):
    maps, truth = drawn(100, cut=0.35)
    problem, stats = measured(maps, truth)
    mine = problem.folds == 3
    turned = stats.copy()
    turned[mine] = stats[mine][:, ::-1]
    before, after = (choose(problem, GRID, s, method) for s in (stats, turned))
    assert before.by_fold[3] == after.by_fold[3]
    assert before.methods[3] == after.methods[3]
    others = [k for k in before.by_fold if k != 3]
    assert method == "auto" or any(before.by_fold[k] != after.by_fold[k] for k in others)


def test_nothing_to_gain_stays_untuned():
    kept = 0
    for seed in range(6):
        problem, stats = measured(*drawn(60, seed, false=False))
        rng = np.random.default_rng(seed)
        # Which decision an image likes is chance.
        stats = rng.permuted(stats, axis=1)
        kept += choose(problem, GRID, stats).method == "fixed"
    assert kept >= 5


def test_fixed_is_fixed():
    problem, stats = measured(*drawn(30))
    found = choose(problem, GRID, stats[:, :1], "fixed")
    assert set(found.by_fold.values()) == {GRID[0]} == {found.deployed}
    assert (found.stats == stats[:, 0]).all()
    two = choose(problem_of(drawn(30)[1], folds=2), GRID, stats)
    assert set(two.methods.values()) == {"fixed"}, "the other fold alone is no evidence"


def test_groups_are_drawn_whole():
    maps, truth = drawn(90, cut=0.4)
    group = np.arange(90) // 9
    problem, stats = measured(maps, truth, group=group)
    found = choose(problem, GRID, stats)
    whole, single = (compare(p, found.optimal, found.fixed) for p in (problem, problem_of(truth)))
    assert whole["gain"] == pytest.approx(single["gain"])
    assert whole["low"] != single["low"]


def test_several_classes_one_by_one():
    one, two = drawn(80, 1, cut=0.35), drawn(80, 2, cut=0.65)
    truth = Truth([np.concatenate(pair) for pair in zip(one[1].masks, two[1].masks, strict=True)])
    maps = packed([np.concatenate([one[0][i], two[0][i]]) for i in range(80)], classes=2)
    grid, asked = default_grid(2, False, False, False), []
    problem, stats = measured(maps, truth, "dice", grid)

    def more(new, fold):
        asked.extend(new)
        return measure(maps, truth, np.arange(80), new, metric_of(problem))

    found = choose(problem, grid, stats, "optimal", more)
    assert found.deployed[0].threshold < 0.5 < found.deployed[1].threshold
    assert found.deployed in asked
    assert report(problem, found)["score"] > report(problem, found)["fixed"]


def test_the_empty_gate_apart():
    maps, truth = drawn(100, head=True)
    grid = default_grid(1, False, True, False)
    problem, stats = measured(maps, truth, grid=grid)
    gain = gate_gain(problem, grid, stats)
    assert gain["gain"] > 0.05
    assert gain["low"] > 0
    free = [g for g, each in enumerate(grid) if not each[0].present and not each[0].top]
    assert gate_gain(problem, [grid[g] for g in free], stats[:, free]) is None


def test_a_receipt_tells_the_decision():
    problem, stats = measured(*drawn(60, cut=0.35))
    found = choose(problem, GRID, stats, "optimal")
    facts = json.loads(json.dumps(as_decision(found)))
    assert from_decision(facts) == found.deployed
    assert from_decision(facts, 2) == found.by_fold[2]
    assert all(isinstance(d, Decision) for d in from_decision(facts))


def test_faint_objects_have_a_score_to_gain():
    problem, stats = measured(*faint(60))
    assert choose(problem, GRID, stats, "optimal").in_sample.mean() >= stats[:, 0].mean()


@pytest.mark.parametrize("classes", [1, 2])
def test_folds_that_see_all_as_it_is_scored_choose_as_before(classes):
    truth, maps = members(40, [1.0], classes=classes)
    grid, apart = default_grid(classes, False, False, False)[::3], {}
    problem = problem_of(truth, "dice", folds=4)

    def more(settings, fold=None):
        return measure(maps[0], truth, np.arange(40), settings, metric_of(problem))

    stats = more(grid)
    apart = dict.fromkeys(range(4), stats)
    for method in ("auto", "optimal", "fixed"):
        one, other = (choose(problem, grid, stats, method, more, seen) for seen in (None, apart))
        for name, value in vars(one).items():
            np.testing.assert_equal(getattr(other, name), value)
    assert gate_gain(problem, grid, stats, more, apart) == gate_gain(problem, grid, stats, more)


def test_a_fold_of_a_fitted_blend_never_sees_its_labels_at_second_hand():
    truth, maps = members(60, [3.0, 6.0])
    problem, rows, k = problem_of(truth, folds=3), np.arange(60), 1

    def made(truth):
        """The choice of a blend whose weights are fitted on these labels, and what fold k chooses by."""
        weights = fit_weights(sample(maps, truth, rows, 30), problem.folds, None, "convex").by_fold
        oof = Mixed(maps, np.stack([weights[j] for j in problem.folds.tolist()]))
        seen = {j: Mixed(maps, np.tile(w, (60, 1))) for j, w in weights.items()}
        stats, *apart = (measure(m, truth, rows, GRID, metric_of(problem)) for m in (oof, *seen.values()))
        return choose(problem, GRID, stats, "optimal", None, dict(enumerate(apart))), stats, apart[k]

    masks = [~mask if fold == k else mask for mask, fold in zip(truth.masks, problem.folds.tolist(), strict=True)]
    (one, stats, seen), (other, turned, again) = made(truth), made(Truth(masks))
    others = problem.folds != k
    assert one.by_fold[k] == other.by_fold[k]
    np.testing.assert_array_equal(seen[others], again[others])
    # As they are scored, the others' rows do know: their weights were fitted on the labels of fold k.
    assert (stats[others] != turned[others]).any()
    np.testing.assert_array_equal(stats[~others], seen[~others])
