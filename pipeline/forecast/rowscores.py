"""The predicted score of every row: of the scored ones cross-fitted, of the test rows by the models of each fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.forecast.candidates import View, sureness
from pipeline.forecast.contributions import contributions, guess_of
from pipeline.forecast.diagnosis import diagnose
from pipeline.forecast.postprocess import Output
from pipeline.forecast.predictor import crossfit
from pipeline.scoring.features import Features
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array


@dataclass(frozen=True)
class RowScores:
    """Predicted contributions of the scored rows (N_s,) and the test rows (N_t,), and the actual ones (N_s,).

    `ends`: low and high of the 90 % intervals of all rows; `report`: how well scored rows are predicted; `strict`: what
    a fold's predictor was fitted on comes from models that are blind to the fold.
    """

    oof: Array
    test: Array
    ends: tuple[Array, Array]
    actual: Array
    report: dict[str, Any]
    strict: bool


def score_rows(
    problem: Problem,
    view: Callable[[int | None], View],
    models: dict[int, View],
    output: Output,
    strict: bool,
    seed: int,
) -> RowScores:
    """Predict what each row of a run's output brings to the metric.

    Strict mode holds only where nothing was adopted: a rule is fitted on out-of-fold rows, never on those of `view(k)`.
    """
    strict = strict and output.adopted is None

    def decided(k: int | None) -> Array:
        return view(k).run if strict and k is not None else output.oof_cut

    def features(k: int | None) -> Features:
        return with_own(problem, view(k), decided(k))

    def target(k: int | None) -> Array:
        rows = np.ones(len(problem.y), bool) if k is None else problem.folds != k
        part, out = problem.part(rows), np.zeros(len(rows))
        out[rows] = contributions(part, guess_of(part, decided(k)[rows]))
        return out

    # Of values the only simple rule is how far the members agree.
    values = problem.task.name == "regression"
    sure = -view(None).leaves.std(0).mean(1) if values else sureness(problem.task, output.oof_cut, problem.classes)
    sure, actual = problem.metric.gain(sure, 0.0), target(None)
    fitted = crossfit(features, target, sure, problem.folds, problem.group, seed)
    told = [fitted.predict(with_own(problem, seen, output.models_cut[k])) for k, seen in models.items()]
    low, high = np.mean([fitted.deployed.interval(p) for p in told], 0)
    report = diagnose(fitted, actual, sure, problem.group)
    ends = (np.r_[fitted.low, low], np.r_[fitted.high, high])
    return RowScores(fitted.predicted, np.mean(told, 0), ends, actual, report, strict)


def with_own(problem: Problem, view: View, decided: Array) -> Features:
    """Return the features of rows with those of what is decided (N P): how sure it is, how far from the run's own."""
    values, names = view.features
    moved = np.abs(decided.astype(np.float64) - view.run).mean(1)
    return np.column_stack([values, sureness(problem.task, decided, problem.classes), moved]), [*names, "own", "moved"]


def in_words(rows: RowScores) -> list[str]:
    """Return for a person how well rows are predicted."""
    report, mode = rows.report, "strict" if rows.strict else "cross-fitted"
    names = ("spearman", "spearman_rule", "spearman_gain_rule")
    ranks = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in (report[name] for name in names)]
    return [
        f"row scores ({mode}, {report['learner']}): Spearman {ranks[0]}, by sureness alone {ranks[1]}, gain {ranks[2]}",
        f"row scores: 90 % intervals hold {report['coverage']:.3f} of the rows, mean width {report['width']:.4g}",
    ]
