"""What a change is worth: against brute force, and over simulated ablations whose truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.ablation import (
    LEVEL,
    Effect,
    Measured,
    detectable,
    draws,
    effect,
    first_effect,
    holm,
    measure,
    mix,
    verdict,
)
from pipeline.scoring.bootstrap import resamples
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


def posed(n=60, metric="mae", group=None):
    rng = np.random.default_rng(0)
    return Problem(TASKS["regression"], METRICS[metric], 1, rng.normal(size=(n, 1)), np.arange(n) % 3, group)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test(p):
    def closed(i):
        sets = [s for r in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), r) if i in s]
        return min(1.0, max(len(s) * min(p[j] for j in s) for s in sets))

    np.testing.assert_allclose(holm(p), [closed(i) for i in range(len(p))])


def test_holm_takes_what_is_no_number_for_no_test():
    assert holm([0.01, float("nan"), 0.02]) == pytest.approx([0.03, 1.0, 0.04])


def test_mixtures_are_all_there_are():
    assert len(draws(3, 3)) == len(set(draws(3, 3))) == 27
    assert len(draws(4, 5)) == 243  # of 1,024
    guesses = [np.full((6, 2), seed) for seed in range(3)]
    folds = np.array([0, 2, 1, 0, 1, 2])
    np.testing.assert_array_equal(mix(guesses, (2, 0, 1), folds, np.arange(3))[:, 0], [2, 1, 0, 2, 0, 1])


def test_scores_are_of_the_metric_and_resamples_are_shared():
    problem = posed(group=np.arange(60) // 2)
    guesses = [problem.y + np.random.default_rng(s).normal(size=(60, 1)) for s in range(2)]
    found = measure(problem, guesses)
    errors = np.array([np.abs(problem.y - g).mean(1) for g in guesses])
    np.testing.assert_allclose(found.scores, -errors.mean(1))  # a loss, turned round
    weights = np.array(list(resamples(60, problem.group)))
    np.testing.assert_allclose(found.boot, -(weights @ errors.T) / weights.sum(1)[:, None])
    assert found.mixed.shape == (8,)
    assert found.units == 30
    assert found.first().scores.shape == (1,)


def test_the_two_parts_of_the_noise_against_an_analysis_of_variance():
    """An additive metric: rows by their variance, seeds by the variance of each fold's model over seeds."""
    rng, problem, n, seeds = np.random.default_rng(1), posed(300), 300, 4
    base = [problem.y + rng.normal(size=(n, 1)) for _ in range(seeds)]
    new = [problem.y + rng.normal(size=(n, 1)) + 0.2 * rng.normal(size=3)[problem.folds][:, None] for _ in range(seeds)]
    found = effect(measure(problem, new), measure(problem, base))
    gains = np.array(
        [np.abs(b - problem.y)[:, 0] - np.abs(g - problem.y)[:, 0] for g, b in zip(new, base, strict=True)]
    )
    rows = gains.mean(0).var(ddof=1) / n
    within = (gains.var(1, ddof=1).mean() / n - rows) / (seeds - 1)
    by_fold = np.array([gains[:, problem.folds == k].sum(1) / n for k in range(3)])
    spread = by_fold.var(1, ddof=1).sum() / seeds
    assert found.gain == pytest.approx(gains.mean())
    assert found.se**2 == pytest.approx(rows + max(spread - within, 0), rel=0.12)  # 400 resamples
    assert found.low < found.gain < found.high


def test_what_is_the_same_and_what_cannot_be_scored():
    problem = posed()
    same = measure(problem, [problem.y + 1, problem.y - 1])
    assert effect(same, same) == Effect(0.0, 0.0, 59, 0.0, 0.0, 1.0)
    lost = replace(same, boot=np.full_like(same.boot, np.nan))
    assert np.isnan(effect(lost, same).p)
    assert np.isnan(lost.se)
    assert verdict(effect(lost, same), 1.0) == "not shown"
    assert np.isnan(detectable([effect(same, same)]))
    assert not first_effect(lost.first(), same).hopeless


def simulated(rng, gain=0.0, rows=0.3, seeds=0.05, rest=0.3, n=120, folds=3, count=3, replicates=100):
    """Two runs of an additive metric: noise of rows, of each fold's model and of both, as `measure` would tell it."""
    fold, weights = np.arange(n) % folds, rng.multinomial(n, [1 / n] * n, size=replicates) / n
    runs = []
    for shift in (0.0, gain):
        x = rows * rng.normal(size=(n, 1)) + seeds * rng.normal(size=(folds, count))[fold]
        x = x + rest * rng.normal(size=(n, count)) + shift
        parts = np.array([x[fold == k].sum(0) / n for k in range(folds)])
        mixed = parts[np.arange(folds), np.array(draws(count, folds))].sum(1)
        runs.append(Measured(x.mean(0), weights @ x, mixed, n, folds))
    return runs


NOISE = [{"rows": 0.3, "seeds": 0.0, "rest": 0.0}, {"rows": 0.0, "seeds": 0.05, "rest": 0.0}, {}]


@pytest.mark.parametrize("noise", NOISE, ids=["rows", "seeds", "both"])
def test_empty_changes_are_shown_as_often_as_is_said(noise):
    rng = np.random.default_rng(2)
    found = [effect(new, base) for base, new in (simulated(rng, **noise) for _ in range(400))]
    assert 0.02 <= np.mean([e.p < 0.05 for e in found]) <= 0.085
    assert 0.915 <= np.mean([e.low <= 0 <= e.high for e in found]) <= 0.98
    assert all((e.p < LEVEL) == (not e.low <= 0 <= e.high) for e in found)


def test_of_twelve_empty_changes_seldom_is_any_shown():
    """They share their base, as in an ablation: one base, twelve variants, 40 times."""
    rng, any_shown = np.random.default_rng(3), 0
    for _ in range(40):
        runs = [simulated(rng)[1] for _ in range(13)]
        found = [effect(run, runs[0]) for run in runs[1:]]
        any_shown += any(p < LEVEL for p in holm([e.p for e in found]))
    assert any_shown <= 7  # 40 x .05 = 2, and 7 in one of 300


def test_the_smallest_gain_is_shown_four_times_out_of_five():
    rng = np.random.default_rng(4)
    least = np.median([detectable([effect(new, base)]) for base, new in (simulated(rng) for _ in range(50))])
    found = [effect(new, base) for base, new in (simulated(rng, gain=least) for _ in range(300))]
    assert 0.7 <= np.mean([verdict(e, e.p) == "helps" for e in found]) <= 0.9
    many = detectable([effect(*simulated(rng)[::-1])] * 12)
    assert many > 1.2 * least


def test_a_good_variant_is_hardly_ever_given_up_and_a_bad_one_is():
    rng = np.random.default_rng(5)
    good = [first_effect(new.first(), base) for base, new in (simulated(rng) for _ in range(400))]
    bad = [first_effect(new.first(), base) for base, new in (simulated(rng, gain=-0.5) for _ in range(60))]
    best = [first_effect(new.first(), base) for base, new in (simulated(rng, gain=0.5) for _ in range(60))]
    assert sum(e.hopeless for e in good) <= 3  # 400 x .001, and 4 in one of 1,300
    assert np.mean([e.hopeless for e in bad]) > 0.9
    assert not any(e.hopeless for e in best)
    assert all(verdict(e, 12 * e.p) == "hurts" for e in bad if e.hopeless)


def test_rows_that_share_a_group_are_one():
    rng = np.random.default_rng(6)
    single, twice = posed(100), posed(200, group=np.repeat(np.arange(100), 2))
    twice = replace(twice, y=np.repeat(single.y, 2, 0), folds=np.repeat(single.folds, 2))
    runs = [[single.y + rng.normal(size=(100, 1)) for _ in range(3)] for _ in range(2)]
    one = effect(*(measure(single, run) for run in runs))
    both = effect(*(measure(twice, [np.repeat(g, 2, 0) for g in run]) for run in runs))
    assert both.se == pytest.approx(one.se, rel=0.1)
    assert both.gain == pytest.approx(one.gain)
