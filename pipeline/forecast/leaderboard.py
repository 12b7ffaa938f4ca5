"""Predict the public and private score of a whole submission from cross-validation and past submissions.

The level (`scoring.level`) is what is expected; past submissions move it (`scoring.regression`); intervals add the
sampling of so many public and private rows. Private scores are never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.forecast.level import Level, Match, level, size_match
from pipeline.forecast.regression import Posterior, Scale, Variances, posterior
from pipeline.scoring.metrics import Metric
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array

COVERS = (50, 80, 90)
Interval = tuple[float, float]


@dataclass(frozen=True)
class Submission:
    """A past submission: run, CV score, public score (NaN where unknown) and the trained runs below it."""

    run: str
    cv: float
    public: float
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """A submission beside the past ones: pairs used, slope of public on CV, best public score, P(it is beaten).

    `real_best` is the run of the last gain beyond noise (`ladder`), `privates` the expected private scores of this
    submission and then of the past ones.
    """

    pairs: int
    slope: float
    best: float
    beats_best: float
    real_best: str
    privates: Array


@dataclass(frozen=True)
class Forecast:
    """What is believed of a submission: see `in_words`. `public` and `private` are intervals by their cover in percent.

    `one` is one model a row, `expected` the submission; `public_se` the sampling error of a public score, `shakeup` the
    sd of private - public.
    """

    run: str
    metric: str
    cv: float
    se: float
    one: Level
    match: Match
    models: int
    expected: float
    n_public: int
    n_private: int
    public: dict[int, Interval]
    private: dict[int, Interval]
    public_se: float
    shakeup: float
    standing: Standing
    shift_auc: float
    shift_p: float
    advice: list[str]


def forecast(
    problem: Problem,
    *,
    run: str,
    score: float,
    se: float,
    contributions: Array,
    models: Sequence[Array],
    mean: Array,
    cuts: Array,
    public_share: float,
    shift_auc: float,
    shift_p: float,
    predicted_oof: Array | None = None,
    predicted_test: Array | None = None,
    weight: Array | None = None,
    leaves: Sequence[str] = (),
    past: Sequence[Submission] = (),
    match: Match | None = None,
) -> Forecast:
    """Predict the scores of a submission.

    `models` are the K models' test predictions (N_t P), `mean` what is submitted, `cuts` those of one model a row (see
    `size_match`); `level` tells of the row-wise arguments. `past` are earlier submissions of the same competition, fold
    map and metric, oldest first, without this one. `match`: what the mean of the models gains, where that is known.
    """
    metric, scale, n = problem.metric, Scale.of(problem.metric), len(mean)
    n_public = int(np.clip(round(public_share * n), 1, max(n - 1, 1)))
    n_private = max(n - n_public, 1)
    one = level(problem, score, se, contributions, predicted_oof, predicted_test, weight)
    start = scale.inside(one.score, one.se)
    match = match or size_match(problem, float(start), models, mean, cuts)
    centre = scale.inside(start + match.gain, one.se / 4)
    steep, steep_there = float(scale.slope(start)), float(scale.slope(centre))

    def sampling(size: int) -> float:
        # Rows of a better score vary less: the variance goes with one slope, not with its square.
        return (one.spread / size + one.known * (1 / size - 1 / n)) * steep * steep_there

    own = (one.se * steep) ** 2
    # What is taken off exactly leaves the error of CV as large as it was; otherwise it shrinks towards a bound.
    kept = (one.se * steep_there) ** 2 if match.exact else own
    whole = kept + (match.se**2 + one.doubt) * steep_there**2
    errors = Variances(whole, sampling(n_public), sampling(n_private), own)
    public_se = float(np.sqrt(errors.public) / steep_there)
    shake = (one.spread + one.known) * (1 / n_public + 1 / n_private) * steep / steep_there
    past = [s for s in past if np.isfinite(s.cv)]
    x = scale.up(scale.inside(np.array([s.cv for s in past]), one.se)) - scale.up(scale.inside(score, one.se))
    y = scale.up(scale.inside(np.array([s.public for s in past]), public_se))
    found = posterior(x[np.isfinite(y)], y[np.isfinite(y)], float(scale.up(centre)), errors)
    standing = _standing(metric, scale, found, past, x, y, public_se)
    return Forecast(
        run=run,
        metric=metric.name,
        cv=score,
        se=se,
        one=one,
        match=match,
        models=len(models),
        expected=float(centre),
        n_public=n_public,
        n_private=n_private,
        public=_intervals(metric, scale, found.public, n_public),
        private=_intervals(metric, scale, found.private, n_private),
        public_se=public_se,
        shakeup=float(np.sqrt(shake)),
        standing=standing,
        shift_auc=shift_auc,
        shift_p=shift_p,
        advice=advice(metric, [Submission(run, score, float("nan"), tuple(leaves)), *past], standing.privates),
    )


def _standing(
    metric: Metric, scale: Scale, found: Posterior, past: list[Submission], x: Array, y: Array, public_se: float
) -> Standing:
    """Return a submission's standing; `x` (n,) and `y` (n,) are as for `posterior`, NaN without a public score."""
    # Of what a submission got beyond the line, the part that is the CV's error stays with it on the private rows.
    beyond = np.nan_to_num(found.kept * (y - found.offset - found.slope * x))
    privates = scale.down(found.real + np.r_[0.0, found.slope * x + beyond])
    scored = [s for s in past if np.isfinite(s.public)]
    if not scored:
        return Standing(0, float("nan"), float("nan"), float("nan"), "", privates)
    publics = [s.public for s in scored]
    best = max(publics) if metric.greater else min(publics)
    beats = (metric.gain(scale.down(found.public), best) > 0).mean()
    real = scored[ladder(metric, publics, public_se)].run
    return Standing(len(scored), found.slope, best, float(beats), real, privates)


def ladder(metric: Metric, publics: Sequence[float], se: float) -> int:
    """Return the place of the last public score (oldest first) that was a gain of more than one standard error.

    A smaller one is not told from noise, and following it fits the public rows (Blum and Hardt 2015, the Ladder).
    """
    held = 0
    for at, score in enumerate(publics):
        if metric.gain(score, publics[held]) > se:
            held = at
    return held


def advice(metric: Metric, submissions: Sequence[Submission], privates: Array) -> list[str]:
    """Say which two submissions to end with: the best expected private score, and the best CV of another family.

    A family is a set of trained runs; one that shares none is preferred to one that shares some.
    """
    first = int(np.argmax(metric.gain(privates, 0.0)))
    one = submissions[first]
    lines = [f"final 1: {one.run}, the best expected private score, {privates[first]:.4f}"]

    def worth(other: Submission) -> tuple[float, float]:
        shared = len(set(other.leaves) & set(one.leaves)) / max(len(set(other.leaves) | set(one.leaves)), 1)
        return -shared, float(metric.gain(other.cv, 0.0))

    others = [s for s in submissions if set(s.leaves) != set(one.leaves)]
    if not others:
        return [*lines, "final 2: nothing of another family yet; train another kind of model as insurance"]
    other = max(others, key=worth)
    return [*lines, f"final 2: {other.run}, the best CV of another family, {other.cv:.4f}"]


def in_words(found: Forecast) -> list[str]:
    """Return the forecast for a person; no level stands there without the shift AUC."""
    name, match = found.metric, found.match
    how = "exact" if match.exact else f"+- {match.se:.4f}, an estimate without labels"
    shift = f"test against scored rows AUC {found.shift_auc:.3f} (p {found.shift_p:.3f})"
    lines = [
        f"level: CV {name} {found.cv:.4f} +- {found.se:.4f}; on the test rows {found.one.score:.4f} for one model; "
        f"mean of {found.models} {match.gain:+.4f} ({how}): {found.expected:.4f}; {shift}"
    ]
    for part, size, intervals in (
        ("public", found.n_public, found.public),
        ("private", found.n_private, found.private),
    ):
        told = ", ".join(f"{cover} % {low:.4f}..{high:.4f}" for cover, (low, high) in intervals.items())
        lines.append(f"predicted {part} {name} ({size} rows): {told}")
    lines.append(
        f"expected shake-up: private - public has sd {found.shakeup:.4f}; "
        f"a public gain below {found.public_se:.4f} (one standard error) is not a gain"
    )
    past = found.standing
    if past.pairs:
        lines.append(
            f"{past.pairs} past submissions (slope of public on CV {past.slope:.2f}): beats the best public score, "
            f"{past.best:.4f}, with probability {past.beats_best:.2f}; the last real gain was {past.real_best}"
        )
    return [*lines, *found.advice]


def _intervals(metric: Metric, scale: Scale, draws: Array, rows: int) -> dict[int, Interval]:
    """Return the central intervals of draws on the scale as scores."""
    # Labels are right or wrong by whole rows: half a row belongs to each end.
    half = 0.5 / rows if metric.label and scale.bounded else 0.0
    ends = {cover: scale.down(np.quantile(draws, [0.5 - cover / 200, 0.5 + cover / 200])) for cover in COVERS}
    return {
        cover: (float(max(low - half, scale.low)), float(min(high + half, scale.high)))
        for cover, (low, high) in ends.items()
    }
