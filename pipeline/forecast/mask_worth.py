"""What a candidate mask of an image brings to the metric, and the score of a submission of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.forecast.leaderboard import Forecast, Submission, forecast
from pipeline.forecast.level import Match
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array


def worth(problem: Problem, stats: Array, base: Array) -> Array:
    """Return the contribution (N A) of every candidate by its statistics (N A k), in units of the metric.

    Of a mean over images it is the image's own score. Of a pooled metric, which has its statistics added up, it is
    n T(image i as the candidate) - (n - 1) T(-i), all other images as in `base` (N k).
    """
    metric, n, y = problem.metric, len(stats), problem.y
    if metric.rows is not None:
        return np.column_stack([metric.rows(y, stats[:, a]) for a in range(stats.shape[1])]).reshape(stats.shape[:2])
    once, total, found = np.ones(1), base.sum(0, dtype=np.float64), np.empty(stats.shape[:2])

    def score(sums: Array) -> float:
        return metric.function(y[:1], sums[None], once)

    for i in range(n):
        rest = total - base[i]
        without = (n - 1) * score(rest)
        found[i] = [n * score(rest + new) - without for new in stats[i]]
    return found


def foretell(
    problem: Problem,
    *,
    run: str,
    score: float,
    se: float,
    actual: Array,
    predicted_oof: Array,
    predicted_test: Array,
    models: int,
    match: Match,
    public_share: float,
    shift_auc: float,
    shift_p: float,
    weight: Array | None = None,
    leaves: Sequence[str] = (),
    past: Sequence[Submission] = (),
) -> Forecast:
    """Predict the public and private score of masks from contributions of scored images and predicted ones of test.

    `predicted_test` (N_t,) are as of one model a row; `match` is what the mean of so many `models` gains.
    """
    told = predicted_test[:, None]
    return forecast(
        problem,
        run=run,
        score=score,
        se=se,
        contributions=actual,
        models=[told] * models,
        mean=told,
        cuts=np.zeros(0),
        public_share=public_share,
        shift_auc=shift_auc,
        shift_p=shift_p,
        predicted_oof=predicted_oof,
        predicted_test=predicted_test,
        weight=weight,
        leaves=leaves,
        past=past,
        match=match,
    )
