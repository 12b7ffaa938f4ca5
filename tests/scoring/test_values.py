import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.scoring.values import mcrmse, pearson, pinball, r2, rmse, spearman


@pytest.mark.parametrize("value", [0.1, 1e9, 0.0])
@pytest.mark.parametrize("n", [2, 3, 1000])
def test_r2_of_a_constant_target_is_nan(value, n):
    y = np.column_stack([np.full(n, value), np.arange(n)])
    assert np.isnan(r2(y, y + 1, np.ones(n)))
    weight = np.r_[0.0, np.linspace(0.1, 0.7, n)]
    assert np.isnan(r2(np.r_[value + 1, np.full(n, value)][:, None], np.zeros((n + 1, 1)), weight))


def test_mcrmse_is_in_each_targets_own_units():
    rng = np.random.default_rng(0)
    y, p, one = rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), np.ones(20)
    alone = [rmse(y[:, t], p[:, t], one) for t in range(2)]
    assert mcrmse(y, p, one) == pytest.approx(np.mean(alone))
    assert mcrmse(y * [1, 100], p * [1, 100], one) == pytest.approx((alone[0] + 100 * alone[1]) / 2)
    assert mcrmse(y, p, one) != pytest.approx(rmse(y, p, one))


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=3, max_size=20),
    st.sampled_from([0.1, 0.5, 0.8]),
)
def test_the_best_constant_of_a_pinball_loss_is_the_quantile(rows, q):
    y, w = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    if not w.any():
        return
    losses = {c: pinball(q, y, np.full(len(y), c), w) for c in sorted(set(y[w > 0]))}
    best = min(losses, key=losses.get)
    below, up_to = w[y < best].sum() / w.sum(), w[y <= best].sum() / w.sum()
    assert below <= q + 1e-9
    assert up_to >= q - 1e-9


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=20))
def test_rank_correlation_knows_the_order_only(rows):
    y, p = (np.array(v, float) for v in zip(*rows, strict=True))
    one = np.ones(len(y))
    if len(set(y)) == 1 or len(set(p)) == 1:
        assert np.isnan(spearman(y, p, one))
        assert np.isnan(pearson(y, p, one))
        return
    assert spearman(y, np.exp(p), one) == pytest.approx(spearman(y, p, one))
    assert pearson(y, 3 * p + 2, one) == pytest.approx(pearson(y, p, one))
    assert spearman(y, p, one) == pytest.approx(sk_spearman(y, p))


def sk_spearman(y, p):
    return stats.spearmanr(y, p).statistic


def test_unknown_values_count_for_nothing():
    rng = np.random.default_rng(0)
    y, p, w = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), rng.uniform(0.5, 2, 30)
    y[:12, 1] = np.nan
    parts = [sk.mean_squared_error(y[:, 0], p[:, 0], sample_weight=w)]
    parts.append(sk.mean_squared_error(y[12:, 1], p[12:, 1], sample_weight=w[12:]))
    assert rmse(y, p, w) == pytest.approx(np.sqrt(np.mean(parts)))
    assert np.isnan(rmse(np.full((3, 2), np.nan), np.zeros((3, 2)), np.ones(3)))
