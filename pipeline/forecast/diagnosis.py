"""How well a row's contribution is predicted: beside the simple rules, with intervals, calibration and coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.forecast.predictor import Predictor
from pipeline.scoring.bootstrap import REPLICATES, replicate
from pipeline.scoring.ranking import binary_roc_auc
from pipeline.store.files import Array

QUINTILES = 5


def diagnose(predictor: Predictor, actual: Array, heuristic: Array, group: Array | None) -> dict[str, Any]:
    """Return how well contributions are predicted, each number with its 95 % interval [value, low, high].

    Beside the predictor stand the simple rules: `heuristic` (larger = a larger contribution) for order, a line through
    it and the mean for the absolute error. `gain`s are paired and positive where the predictor is better.
    """
    n, levels = len(actual), np.unique(actual)
    replicates = REPLICATES if n <= 20_000 else 100
    scores: dict[str, Callable[[Array], float]] = {
        "spearman": _spearman(predictor.predicted, actual),
        "spearman_rule": _spearman(heuristic, actual),
    }
    if len(levels) == 2:
        high = actual == levels[1]
        scores["auroc"] = lambda weight: binary_roc_auc(high, predictor.predicted, weight)
        scores["auroc_rule"] = lambda weight: binary_roc_auc(high, heuristic, weight)
    for name, guess in (("mae", predictor.predicted), ("mae_rule", predictor.rule), ("mae_mean", predictor.mean)):
        scores[name] = _mean_of(np.abs(guess - actual))
    now = {name: score(np.ones(n)) for name, score in scores.items()}
    boot = dict(zip(scores, replicate(list(scores.values()), n, group, replicates).T, strict=True))
    for name in [name for name in scores if "_" in name]:
        sign = -1 if name.startswith("mae") else 1
        gain, kind = f"{name.split('_')[0]}_gain", name.split("_")[1]
        now[f"{gain}_{kind}"] = sign * (now[name.split("_")[0]] - now[name])
        boot[f"{gain}_{kind}"] = sign * (boot[name.split("_")[0]] - boot[name])
    covered = (actual >= predictor.low - 1e-9) & (actual <= predictor.high + 1e-9)
    return {
        "n": n,
        "learner": predictor.deployed.learner,
        "learners": {str(k): fitted.learner for k, fitted in predictor.by_fold.items()},
        **{name: [now[name], *_ends(boot[name])] for name in now},
        "coverage": float(covered.mean()),
        "width": float((predictor.high - predictor.low).mean()),
        "quintiles": _quintiles(predictor.predicted, actual),
    }


def _ends(values: Array) -> list[float]:
    """Return the ends of the 95 % interval, NaN where fewer than half of the resamples have a value."""
    values = values[np.isfinite(values)]
    return [float(v) for v in np.quantile(values, [0.025, 0.975])] if len(values) else [float("nan")] * 2


def _mean_of(values: Array) -> Callable[[Array], float]:
    return lambda weight: float(np.average(values, weights=weight))


def _spearman(one: Array, other: Array) -> Callable[[Array], float]:
    """Return the rank correlation as a function of row weights; zero where either says nothing."""
    places = [np.unique(v, return_inverse=True)[1] for v in (one, other)]

    def score(weight: Array) -> float:
        ranks = []
        for place in places:
            mass = np.bincount(place, weight)
            rank = (np.cumsum(mass) - mass / 2)[place]
            ranks.append(rank - np.average(rank, weights=weight))
        a, b = ranks
        below = np.sqrt(np.average(a * a, weights=weight) * np.average(b * b, weights=weight))
        return float(np.average(a * b, weights=weight) / below) if below > 1e-12 else 0.0

    return score


def _quintiles(predicted: Array, actual: Array) -> list[dict[str, float]]:
    """Return predicted and actual means of fifths of the rows, from the lowest predicted up."""
    fifths = np.array_split(np.argsort(predicted, kind="stable"), QUINTILES)
    return [
        {
            "n": len(rows),
            "predicted": float(predicted[rows].mean()),
            "actual": float(actual[rows].mean()),
            "se": float(actual[rows].std(ddof=1) / np.sqrt(len(rows))),
        }
        for rows in fifths
        if len(rows) > 1
    ]
