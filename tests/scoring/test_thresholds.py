"""Against every cut there is: one between any two neighbours."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.classification import quadratic_kappa
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.thresholds import best_threshold, kappa_cuts, match_shares
from pipeline.tasks import TASKS

BINARY, ORDINAL = TASKS["binary"], TASKS["ordinal"]
EXACT = [
    *(("binary", f"f{beta}{average}") for beta in ("0.5", "1", "2") for average in ("", "_macro", "_micro")),
    ("binary", "accuracy"),
    ("binary", "balanced_accuracy"),
    *(("multilabel", f"f{beta}_macro") for beta in ("0.5", "1", "2")),
]
ONE_ULP = np.cumsum([0.0, *[np.spacing(0.3)] * 4]) + 0.3
# Few distinct scores, so that ties are common; some differ in the last bit only.
scores = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0, *ONE_ULP.tolist()])
labelled = st.lists(st.tuples(st.integers(0, 1), scores), min_size=1, max_size=25)
graded = st.lists(st.tuples(st.integers(0, 3), scores), min_size=2, max_size=12).filter(
    lambda r: len({g for g, _ in r}) > 1
)


def places(p):
    """Return one cut for every way to divide the sorted scores, exact for scores one bit apart: p > cut."""
    return np.r_[p.min() - 1, np.unique(p)]


@pytest.mark.parametrize("task, name", EXACT)
@given(rows=labelled)
def test_best_threshold_is_the_best_of_all(task, name, rows):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    metric = METRICS[name]
    reference = METRICS[name.removesuffix("_macro")] if task == "multilabel" else metric

    def value(cut):
        return reference.function(y, (p > cut).astype(int), np.ones(len(y)))

    assert value(best_threshold(metric, TASKS[task], y, p)) == pytest.approx(max(value(c) for c in places(p)))


@pytest.mark.parametrize("task, name", EXACT)
@given(rows=labelled, seed=st.integers(0, 99))
def test_a_whole_weight_is_a_repeated_row(task, name, rows, seed):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    weight = times.astype(float)
    assert best_threshold(METRICS[name], TASKS[task], y, p, weight) == best_threshold(
        METRICS[name], TASKS[task], y.repeat(times), p.repeat(times)
    )
    starts = (np.array([0.1, 0.6]),)
    assert (kappa_cuts(y, p, starts, weight) == kappa_cuts(y.repeat(times), p.repeat(times), starts)).all()
    shares = [0.1, 0.5, y.mean()]
    assert (match_shares(shares, p, weight) == match_shares(shares, p.repeat(times))).all()


@given(rows=labelled)
def test_all_shares_at_once_are_each_by_itself(rows):
    p = np.array([s for _, s in rows], np.float32)
    shares = [0.0, 0.2, 0.55, 1.0]
    assert match_shares(shares, p).tolist() == [match_shares([share], p)[0] for share in shares]


def test_best_threshold_lies_halfway():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert best_threshold(METRICS["f1"], BINARY, y, p) == pytest.approx(0.4)


@given(rows=labelled, above=st.floats(0, 1))
def test_match_shares_leaves_the_nearest_share(rows, above):
    p = np.array([s for _, s in rows])
    left = (p > match_shares([above], p)).mean()
    assert abs(left - above) == pytest.approx(min(abs((p > c).mean() - above) for c in places(p)), abs=1e-12)


def kappa_at(y, p, cuts):
    return quadratic_kappa(y, (p[:, None] > cuts).sum(1), np.ones(len(y)))


@given(graded)
def test_no_move_of_one_cut_improves_kappa(rows):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    starts = (ORDINAL.default_cuts(4), match_shares([(y > c).mean() for c in range(3)], p))
    cuts = kappa_cuts(y, p, starts)
    best = kappa_at(y, p, cuts)
    every = [kappa_at(y, p, c) for c in combinations_with_replacement(places(p), 3)]
    assert best <= max(every) + 1e-12
    assert (np.diff(cuts) >= 0).all()
    for start in starts:
        assert best >= kappa_at(y, p, start) - 1e-12
    for j in range(3):
        for place in places(p):
            moved = np.r_[cuts[:j], place, cuts[j + 1 :]]
            if (np.diff(moved) >= 0).all():
                assert kappa_at(y, p, moved) <= best + 1e-12


@given(rows=labelled.filter(lambda r: len({g for g, _ in r}) > 1))
def test_a_single_kappa_cut_is_the_best_of_all(rows):
    y, p = (np.array(v) for v in zip(*rows, strict=True))
    best = max(kappa_at(y, p, [c]) for c in places(p))
    assert kappa_at(y, p, kappa_cuts(y, p, (np.array([0.5]),))) == pytest.approx(best)


@pytest.mark.parametrize("signal", [0.0, 0.5])
def test_kappa_cuts_are_nearly_always_the_best_of_all(signal):
    rng, best = np.random.default_rng(0), []
    for _ in range(20):
        y = np.r_[0, 1, 2, 3, rng.integers(0, 4, 8)]
        p = np.round(y * signal + rng.normal(size=12), 1)
        starts = (ORDINAL.default_cuts(4), match_shares([(y > c).mean() for c in range(3)], p))
        every = max(kappa_at(y, p, c) for c in combinations_with_replacement(places(p), 3))
        best.append(kappa_at(y, p, kappa_cuts(y, p, starts)) >= every - 1e-12)
    assert np.mean(best) >= 0.9
