import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.bootstrap import REPLICATES, gate, replicate, resamples, standard_error

groups = st.lists(st.sampled_from("abcde"), min_size=1, max_size=30).map(np.array)


@given(groups)
def test_groups_are_drawn_whole(group):
    names, first = np.unique(group, return_index=True)
    for weight in resamples(len(group), group, 5):
        assert all(len(set(weight[group == name])) == 1 for name in names)
        assert weight[first].sum() == len(names)
        assert (weight == weight.round()).all()


def test_rows_are_drawn_with_replacement():
    weights = np.array(list(resamples(50, None)))
    assert weights.shape == (REPLICATES, 50)
    assert (weights.sum(1) == 50).all()
    # Poisson-like counts: mean 1 and variance 1 - 1/n.
    assert weights.mean(0) == pytest.approx(1, abs=0.25)
    assert weights.var() == pytest.approx(0.98, abs=0.05)


def test_the_seed_decides():
    one, again, other = (np.array(list(resamples(9, None, 3, seed))) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()
    assert (one[0] != one[1]).any()


def test_replicate_is_paired():
    x = np.random.default_rng(0).normal(size=30)
    scores = [lambda w: w @ x, lambda w: w @ x + 1]
    both = replicate(scores, 30, None, 7, seed=3)
    assert both.shape == (7, 2)
    assert both[:, 1] - both[:, 0] == pytest.approx(1)
    assert both[:, 0] == pytest.approx([w @ x for w in resamples(30, None, 7, 3)])


def test_standard_error_of_a_mean():
    x = np.random.default_rng(0).normal(size=200)
    mean = standard_error(lambda w: w @ x / w.sum(), 200, None)
    assert mean == pytest.approx(x.std() / 200**0.5, rel=0.15)
    # Four copies of each row in one group carry no more information than one.
    copies, group = x.repeat(4), np.arange(200).repeat(4)
    assert standard_error(lambda w: w @ copies / w.sum(), 800, group) == pytest.approx(mean)
    assert standard_error(lambda w: w @ copies / w.sum(), 800, None) < 0.65 * mean


@pytest.mark.parametrize("share, finite", [(0.7, True), (0.3, False)])
def test_standard_error_needs_half_of_the_resamples(share, finite):
    rng = np.random.default_rng(0)
    error = standard_error(lambda w: w[0] if rng.random() < share else np.nan, 20, None)
    assert np.isfinite(error) == finite


def test_gate_by_hand():
    rng = np.random.default_rng(0)
    gains = np.array([0.1, 0.5, 0.3])
    boot = gains + 0.1 * rng.normal(size=(400, 3))
    winner, lower = gate(gains, boot)
    assert winner == 1
    largest = sorted(max(row) for row in boot - gains)
    assert lower == pytest.approx(gains - (largest[389] + 0.025 * (largest[390] - largest[389])))
    assert gate(gains - 0.45, boot - 0.45)[0] is None
    assert gate(gains - 9, boot - 9)[0] is None


def test_gate_of_unknown_scores_keeps_the_simple_rule():
    boot = np.full((400, 2), 1.0)
    assert gate(np.array([1.0, 1.0]), boot)[0] == 0
    boot[3, 1] = np.nan
    for gains in (np.array([1.0, 1.0]), np.array([1.0, np.nan])):
        winner, lower = gate(gains, boot)
        assert winner is None
        assert np.isnan(lower).all()


def test_noise_is_adopted_in_5_percent_at_most_and_a_real_gain_is_found():
    n, candidates, trials = 200, 10, 1000
    rng, weights = np.random.default_rng(0), np.array(list(resamples(n, None))) / n

    def adopted(shift):
        rows = rng.normal(shift, 1, (trials, n, candidates))
        return np.mean([gate(r.mean(0), weights @ r)[0] is not None for r in rows])

    # Were the ten candidates tested one by one, 1 - 0.975^10 = 22 % of the noise would be adopted.
    assert 0 < adopted(0) <= 0.05
    assert adopted(0.4) > 0.95
