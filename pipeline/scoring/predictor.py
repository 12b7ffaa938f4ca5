"""Predict what a row brings to the metric (its "leaderboard score") from label-free features, cross-fitted.

Which learner is used, and how its predictions are calibrated, is settled inside the rows that it is fitted on, over
three parts of whole groups. The better learner is that of the smaller squared error: absolute error would reward the
median, which for a row that is right nine times in ten says 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.scoring.bootstrap import REPLICATES, replicate
from pipeline.scoring.features import schema
from pipeline.scoring.metrics import binary_roc_auc
from pipeline.store.files import Array

# More distinct values than this are no levels; fewer rows than this grow no trees.
LEVELS, TREES_FROM, FEW = 12, 150, 6
PARTS, QUINTILES = 3, 5
COVERAGE = 0.9

Features = tuple[Array, list[str]]
Model = Callable[[Array], Array]


def constant(x: Array, target: Array) -> Model:
    """Predict the mean."""
    mean = float(target.mean())
    return lambda q: np.full(len(q), mean)


def linear(x: Array, target: Array) -> Model:
    """Predict linearly from the few features that correlate best: ridge, logistic for two levels."""
    center, scale = x.mean(0), x.std(0)
    z = (x - center) / np.where(scale > 0, scale, 1)
    few = np.argsort(-np.abs(z.T @ (target - target.mean())), kind="stable")[:FEW]
    z, levels = z[:, few], np.unique(target)

    def scaled(q: Array) -> Array:
        return np.asarray(((q - center) / np.where(scale > 0, scale, 1))[:, few])

    if len(levels) == 2:
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression().fit(z, target == levels[1])
        return lambda q: levels[0] + (levels[1] - levels[0]) * fitted.predict_proba(scaled(q))[:, 1]
    slope = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (target - target.mean()))
    return lambda q: scaled(q) @ slope + target.mean()


def regressor(x: Array, target: Array) -> Model:
    """Predict by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model: Model = HistGradientBoostingRegressor(**_trees()).fit(x, target).predict
    return model


def classifier(x: Array, target: Array) -> Model:
    """Predict the expected level by boosted trees over the levels of the metric."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    levels, index = np.unique(target, return_inverse=True)
    if len(levels) < 2:
        return constant(x, target)
    fitted = HistGradientBoostingClassifier(**_trees()).fit(x, index)
    return lambda q: fitted.predict_proba(q) @ levels


def _trees() -> dict[str, Any]:
    return {
        "max_iter": 60,
        "learning_rate": 0.1,
        "max_leaf_nodes": 8,
        "min_samples_leaf": 20,
        "l2_regularization": 1.0,
        "early_stopping": False,
    }


LEARNERS = {"constant": constant, "linear": linear, "regressor": regressor, "classifier": classifier}


@dataclass(frozen=True)
class Fitted:
    """A learner fitted and calibrated on some rows; `inner` (N,) are its predictions of them, cross-fitted inside."""

    model: Model
    learner: str
    schema: str
    slope: float
    offset: float
    bounds: tuple[float, float]
    inner: Array
    edges: Array
    residuals: Array

    def predict(self, features: Features) -> Array:
        """Return the predicted contributions (N,); features of another schema are refused."""
        values, names = features
        if schema(names) != self.schema:
            raise ValueError(f"features {names} are not those that the predictor was fitted on")
        return np.clip(self.offset + self.slope * self.model(values), *self.bounds)

    def interval(self, predicted: Array) -> tuple[Array, Array]:
        """Return the split-conformal 90 % interval of predictions: residuals of rows predicted alike, none of them fitted."""
        at = np.searchsorted(self.edges, predicted)
        low, high = (predicted + self.residuals[at, side] for side in (0, 1))
        return np.clip(low, *self.bounds), np.clip(high, *self.bounds)


def parts_of(units: Array, seed: int) -> Array:
    """Return one of three parts (N,) for each row, at random; rows of one unit stay together."""
    names, index = np.unique(units, return_inverse=True)
    return np.asarray((np.random.default_rng([seed, 1]).permutation(len(names)) % PARTS)[index])


def fit(features: Features, target: Array, units: Array, seed: int) -> Fitted:
    """Fit the learner that predicts best across parts of whole units, calibrated on those predictions."""
    values, names = features
    parts, learners = parts_of(units, seed), ["constant"]
    if len(np.unique(parts)) == PARTS and target.std() > 0:
        learners += ["linear"]
        if len(target) >= TREES_FROM:
            learners += ["regressor"] + ["classifier"] * (len(np.unique(target)) <= LEVELS)
    found = {}
    for name in learners:
        raw = np.full(len(target), target.mean())
        for part in range(PARTS if len(learners) > 1 else 0):
            rest = parts != part
            raw[~rest] = LEARNERS[name](values[rest], target[rest])(values[~rest])
        # A slope below one takes back what the learner made of noise; a negative one would be noise itself.
        spread = raw.var()
        slope = float(np.clip(np.mean((raw - raw.mean()) * (target - target.mean())) / spread, 0, 2)) if spread else 0.0
        found[name] = raw, slope, float(target.mean() - slope * raw.mean())
    bounds = (float(target.min()), float(target.max()))
    inner = {name: np.clip(offset + slope * raw, *bounds) for name, (raw, slope, offset) in found.items()}
    best = min(learners, key=lambda name: float(((inner[name] - target) ** 2).mean()))
    edges, residuals = _residuals(inner[best], target)
    model = LEARNERS[best](values, target)
    return Fitted(model, best, schema(names), *found[best][1:], bounds, inner[best], edges, residuals)


def _residuals(predicted: Array, target: Array) -> tuple[Array, Array]:
    """Return edges between rows predicted alike, and the residual quantiles (bins x 2) that 90 % lie within."""
    shares = np.linspace(0, 1, QUINTILES + 1)[1:-1] if len(target) >= 200 else []
    edges = np.unique(np.quantile(predicted, shares)) if len(shares) else np.zeros(0)
    bins, residuals = np.searchsorted(edges, predicted), []
    for b in range(len(edges) + 1):
        inside = np.sort((target - predicted)[bins == b] if (bins == b).any() else target - predicted)
        n, tail = len(inside), (1 - COVERAGE) / 2
        rank = int(np.floor(tail * (n + 1)))
        residuals.append([inside[max(rank - 1, 0)], inside[min(n - rank, n - 1)]])
    return edges, np.array(residuals)


@dataclass(frozen=True)
class Predictor:
    """Cross-fitted predictions with their intervals (N each), what each fold was fitted without, and the deployed fit.

    `mean` and `rule` are the simple predictions beside them: the others' mean, and a line through a single heuristic.
    """

    predicted: Array
    low: Array
    high: Array
    mean: Array
    rule: Array
    by_fold: dict[int, Fitted]
    deployed: Fitted

    def predict(self, features: Features, fold: int | None = None) -> Array:
        """Return the scores that the fit without a fold, or the deployed one, predicts."""
        return (self.deployed if fold is None else self.by_fold[fold]).predict(features)


def crossfit(
    view: Callable[[int | None], Features],
    target: Callable[[int | None], Array],
    heuristic: Array,
    folds: Array,
    group: Array | None,
    seed: int,
) -> Predictor:
    """Predict each fold by a learner that is fitted without it.

    `view(k)` and `target(k)` are features and contributions of all rows as fold k may see them: the same for every k,
    or in strict mode those of models that are blind to k as well; `view(None)` those that the deployed fit is made on.
    """
    units = np.arange(len(folds)) if group is None else group
    out, by_fold = np.zeros((5, len(folds))), {}
    for k in np.unique(folds).tolist():
        mine, (values, names), wanted = folds == k, view(k), target(k)
        fitted = fit((values[~mine], names), wanted[~mine], units[~mine], seed)
        predicted = fitted.predict((values[mine], names))
        line = np.polyfit(heuristic[~mine], wanted[~mine], 1) if np.ptp(heuristic[~mine]) else [0, wanted[~mine].mean()]
        rule = np.clip(np.polyval(line, heuristic[mine]), *fitted.bounds)
        out[:, mine] = [predicted, *fitted.interval(predicted), np.full(mine.sum(), wanted[~mine].mean()), rule]
        by_fold[k] = fitted
    return Predictor(*out, by_fold, fit(view(None), target(None), units, seed))


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
