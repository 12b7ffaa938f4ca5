from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.forecast import shift as module
from pipeline.forecast.shift import CLIP, adversarial, in_words, likeness, most_test_like, weighted_cv
from pipeline.scoring.clusters import embed, shrink
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.split import draw_holdout, draw_test_like

NAMES = ["mean", "sd", "sharpness"]


def rows(rng, n, n_test, moved=0.0, k=3, width=20):
    """Embeddings of k models with axes of their own, folds, and image statistics; `moved` moves test on one axis."""
    z = rng.normal(size=(n + n_test, width))
    z[n:, 0] += moved
    embeddings = [(z @ np.linalg.qr(rng.normal(size=(width, width)))[0]).astype(np.float16) for _ in range(k)]
    statistics = np.column_stack([z[:, 0] + rng.normal(size=n + n_test), rng.normal(size=(n + n_test, 2))])
    return embeddings, np.arange(n) % k, statistics, NAMES


@pytest.mark.parametrize("where", ["embedding", "statistics"])
def test_likeness_orders_rows_by_what_was_moved(where):
    """Half of the rows lie where all test rows do; scores are held out, so no row is like test by its own label."""
    rng = np.random.default_rng(0)
    x, statistics, is_test = rng.normal(size=(300, 8)), rng.normal(size=(300, 2)), np.arange(300) >= 200
    (x if where == "embedding" else statistics)[100:, 0] += 3
    found = likeness(x, statistics, is_test, np.arange(300), 0)
    assert roc_auc_score(np.arange(200) >= 100, found[:200]) > 0.95
    noise = likeness(rng.normal(size=(300, 8)), rng.normal(size=(300, 2)), is_test, np.arange(300), 0)
    assert abs(roc_auc_score(is_test, noise) - 0.5) < 0.12


def test_a_holdout_like_test_says_what_test_will_say():
    """Digits, test faint and noisy, a third of the training rows so: a random holdout flatters, one like test does not."""
    digits, gaps = load_digits(), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        order, n = rng.permutation(1797), 900
        images, y = digits.images[order] / 16, digits.target[order]
        faint = (np.arange(1797) >= n) | (rng.random(1797) < 1 / 3)
        images[faint] = 0.3 * images[faint] + rng.normal(0, 0.15, images[faint].shape)
        x, units, strata = embed(shrink(images[..., None].clip(0, 1))), np.arange(n), np.eye(10, dtype=int)[y[:n]]
        statistics = np.column_stack([images.mean((1, 2)), images.std((1, 2))])
        like = likeness(x, statistics, np.arange(1797) >= n, np.arange(1797), seed)[:n]
        flat = images.reshape(1797, -1)
        for held in (draw_holdout(strata, units, 0.1, seed), draw_test_like(strata, units, 0.1, seed, like)):
            model = KNeighborsClassifier(3).fit(flat[:n][~held], y[:n][~held])
            gaps.append(model.score(flat[:n][held], y[:n][held]) - model.score(flat[n:], y[n:]))
    random, chosen = np.reshape(gaps, (4, 2)).T
    print(f"holdout less test: random {random.mean():+.3f} {random.std(ddof=1) / 2:.3f}", end=", ")
    print(f"like test {chosen.mean():+.3f} {chosen.std(ddof=1) / 2:.3f}")
    assert abs(chosen.mean()) < 0.06 < random.mean() - 0.05


def test_without_a_shift_p_is_uniform():
    p, drivers, auc, covered, effective = [], [], [], [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        found = adversarial(*rows(rng, 120, 90), seed=seed, permutations=99)
        p.append(found.p)
        drivers.append(min(d.p for d in found.drivers))
        auc.append(found.auc)
        covered.append(found.low <= 0.5 <= found.high)
        effective.append(found.weight.sum() ** 2 / (found.weight**2).sum() / 120)
    assert kstest(p, "uniform").pvalue > 0.01
    assert kstest(drivers, "uniform").pvalue > 0.01
    assert np.mean(auc) == pytest.approx(0.5, abs=0.015)
    assert np.mean(covered) > 0.87
    # Weights that tell nothing are all about one.
    assert np.mean(effective) > 0.9


@pytest.mark.parametrize("n_test, square", [(40, 0.25), (360, 0.01)])
def test_models_that_share_their_test_rows_are_not_independent(n_test, square):
    def half(k):
        found = adversarial(*rows(np.random.default_rng(0), 40 * k, n_test, k=k, width=8), permutations=800)
        return (found.high - found.low) / 2

    # The mean of four has a quarter of the variance of one only if they have nothing in common.
    assert half(4) / half(1) == pytest.approx(((1 + 3 * square) / 4) ** 0.5, rel=0.1)


@pytest.mark.parametrize("moved, least", [(1.0, 0.6), (4.0, 0.95)])
def test_a_shift_is_found_with_what_drives_it(moved, least):
    found = adversarial(*rows(np.random.default_rng(0), 300, 200, moved))
    assert found.auc > least
    assert found.low > 0.5
    assert found.p == 1 / 201
    assert len(found.by_model) == 3
    assert found.drivers[0].name == "mean"
    assert found.drivers[0].difference == pytest.approx(moved / (2 + moved**2 * 0.24) ** 0.5, abs=0.2)
    assert found.drivers[0].p == 1 / 201
    assert found.drivers[2].p > 0.05


@pytest.mark.parametrize("kind, least, most", [("none", 0.45, 0.55), ("contrast", 0.99, 1.0), ("prior", 0.56, 0.75)])
def test_shifts_of_digits(kind, least, most):
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    train, test = order[:900], order[900:]
    if kind == "prior":
        test = test[(y[test] < 5) | (rng.random(len(test)) < 0.2)]
    x = x[np.r_[train, test]] / 16
    x[900:] *= 0.5 if kind == "contrast" else 1
    folds = np.arange(900) % 3
    found = adversarial([x] * 3, folds, np.column_stack([x.mean(1), x.std(1)]), NAMES[:2])
    assert least <= found.auc <= most
    assert (found.p < 0.01) == (kind != "none")
    if kind == "prior":
        # What there is more of in test weighs more.
        few = y[train] >= 5
        assert found.weight[~few].mean() > 1.2 * found.weight[few].mean()
        likely = [int(i) for i, _ in most_test_like(found, np.arange(900), 90)]
        assert few[likely].mean() < few.mean() - 0.15


def test_the_density_ratio_is_that_of_two_normals():
    rng = np.random.default_rng(0)
    n, x = 6000, rng.normal(size=(9000, 1))
    x[n:] += 1
    found = adversarial(None, np.arange(n) % 2, x, ["x"], permutations=3)
    exact = np.exp(x[:n, 0] - 0.5)
    inside = (exact > 0.2) & (exact < 5)
    assert np.log(found.weight[inside]) == pytest.approx(np.log(exact[inside]), abs=0.25)
    assert found.weight.min() >= CLIP[0]
    assert found.weight.max() <= CLIP[1]
    assert found.likeness[inside] == pytest.approx(exact[inside] / (1 + exact[inside]), abs=0.06)
    # Importance weights carry a mean over: E[x] is 0 here and 1 there.
    mean, error, effective = weighted_cv(lambda w: np.average(x[:n, 0], weights=w), found.weight, None)
    assert mean == pytest.approx(1, abs=0.12)
    assert 0 < error < 0.1
    assert n / 8 < effective < n / 2


def test_scores_that_tell_nothing_or_lie_weigh_nothing():
    y = np.arange(40) % 4 == 0
    assert module._density_ratio(y, -1.0 * y).tolist() == [1.0] * 30
    told = module._density_ratio(y, y + np.linspace(0, 1, 40))
    assert (np.diff(told) > 0).all()


def test_drivers_are_ordered_by_size_whatever_the_sign():
    statistics = np.random.default_rng(0).normal(size=(200, 3))
    statistics[120:] -= [0.0, 2.0, 0.9]
    found = adversarial(None, np.arange(120) % 2, statistics, NAMES, permutations=50).drivers
    assert [d.name for d in found] == ["sd", "sharpness", "mean"]
    assert found[0].difference < found[1].difference < -0.5


def test_weighted_cv_is_the_metric_under_weights():
    rng = np.random.default_rng(0)
    y, p, weight = rng.integers(0, 2, 200), rng.integers(0, 2, 200), rng.random(200)
    score, error, effective = weighted_cv(lambda w: METRICS["accuracy"].function(y, p, w), weight, None)
    assert score == np.average(y == p, weights=weight)
    assert error == pytest.approx(0.5 / effective**0.5, rel=0.15)
    assert weighted_cv(lambda w: w.mean(), np.full(9, 3.0), None)[2] == pytest.approx(9)


def test_groups_are_permuted_whole():
    # Groups differ among themselves, test groups no more than others: rows alone would look shifted.
    def p_of(seed, grouped):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(30), 10)
        statistics = rng.normal(size=(30, 3))[group] + 0.3 * rng.normal(size=(300, 3))
        return adversarial(
            None, np.arange(200) // 10 % 2, statistics, NAMES, group if grouped else None, seed, permutations=60
        ).p

    whole = [p_of(seed, True) for seed in range(30)]
    assert np.mean(np.array(whole) < 0.1) < 0.3
    assert np.mean([p_of(seed, False) < 0.1 for seed in range(30)]) > np.mean(np.array(whole) < 0.1) + 0.15


def test_held_out_scores_are_those_of_a_ridge():
    rng = np.random.default_rng(0)
    x, y, inner = rng.normal(size=(60, 5)), rng.random((60, 3)) < 0.4, rng.integers(0, 5, 60)
    ours = module._held_out_scores(x, y, inner)
    for k in range(5):
        rest = inner != k
        model = Ridge(alpha=0.1 * rest.sum(), fit_intercept=False)
        model.fit(x[rest], y[rest] - y[rest].mean(0))
        assert ours[~rest] == pytest.approx(model.predict(x[~rest]))


def test_aucs_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, scores = rng.random((50, 4)) < 0.4, rng.integers(0, 9, (50, 4)).astype(float)
    assert module._aucs(y, scores) == pytest.approx([roc_auc_score(y[:, b], scores[:, b]) for b in range(4)])


def test_rows_that_a_model_trained_on_are_not_looked_at():
    rng = np.random.default_rng(0)
    embeddings, folds, statistics, names = rows(rng, 90, 60)
    plain = adversarial(embeddings, folds, statistics, names)
    for k, e in enumerate(embeddings):
        e[:90][folds != k] = 99
    assert np.array_equal(adversarial(embeddings, folds, statistics, names).likeness, plain.likeness)


def test_a_copy_on_both_sides_and_constant_features():
    rng = np.random.default_rng(0)
    embeddings, folds, statistics, names = rows(rng, 40, 30)
    statistics[:, 1] = 7
    group = np.arange(70)
    group[50] = 3
    found = adversarial([np.ones_like(e) for e in embeddings], folds, statistics, names, group)
    assert np.isfinite([found.auc, found.p, *found.weight]).all()
    assert next(d for d in found.drivers if d.name == "sd").difference == 0


def test_too_few_rows_to_compare():
    rng = np.random.default_rng(0)
    found = adversarial(*rows(rng, 40, 1))
    assert np.isnan([found.auc, found.p, found.low, found.high]).all()
    assert (found.weight == 1).all()
    assert (found.likeness == 0.5).all()
    assert "AUC nan" in in_words(found, np.arange(90))[0]


def test_words():
    found = adversarial(*rows(np.random.default_rng(0), 90, 60, 2.0))
    ids = np.array([f"i{j}" for j in range(90)])
    first, second, third = in_words(found, ids)
    assert f"AUC {found.auc:.3f}" in first
    assert "3 models" in first
    assert second.index("mean") < second.index("sd (p")
    assert f"{found.drivers[0].difference:+.2f}" in second
    assert in_words(adversarial(None, np.arange(9) % 3, np.zeros((20, 0)), []), ids) != []
    top = most_test_like(found, ids, 5)
    assert third == "shift: scored rows most like test: " + ", ".join(f"{name} ({p:.2f})" for name, p in top)
    assert len(in_words(replace(found, p=0.5), ids)) == 2, "without a shift no row is like test"
    assert [p for _, p in top] == sorted(found.likeness, reverse=True)[:5]
    assert top[0][0] == f"i{np.argmax(found.likeness)}"
