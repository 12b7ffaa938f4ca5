"""Predict what a row brings to the metric (its "leaderboard score") from label-free features, cross-fitted.

Which learner is used, and how its predictions are calibrated, is settled inside the rows that it is fitted on, over
three parts of whole groups. The better learner is that of the smaller squared error: absolute error would reward the
median, which for a row that is right nine times in ten says 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.scoring.features import Features, schema
from pipeline.scoring.stack import one_thread, some
from pipeline.store.files import Array

# More distinct values than this are no levels; fewer units than this grow no trees.
LEVELS, TREES_FROM, FEW = 12, 200, 6
PARTS, COVERAGE = 3, 0.9

Model = Callable[[Array], Array]


def constant(x: Array, target: Array) -> Model:
    """Predict the mean."""
    mean = float(target.mean())
    return lambda q: np.full(len(q), mean)


def linear(x: Array, target: Array, count: int = FEW) -> Model:
    """Predict linearly from the `count` features that correlate best: ridge, logistic for two levels."""
    center, scale = x.mean(0), x.std(0)
    z = (x - center) / np.where(scale > 0, scale, 1)
    few = np.argsort(-np.abs(z.T @ (target - target.mean())), kind="stable")[:count]
    z, levels = z[:, few], np.unique(target)

    def scaled(q: Array) -> Array:
        return np.asarray(((q - center) / np.where(scale > 0, scale, 1))[:, few])

    if len(levels) == 2:
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(max_iter=1000).fit(z, target == levels[1])
        return lambda q: levels[0] + (levels[1] - levels[0]) * fitted.predict_proba(scaled(q))[:, 1]
    slope = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (target - target.mean()))
    return lambda q: scaled(q) @ slope + target.mean()


def regressor(x: Array, target: Array) -> Model:
    """Predict by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = some(len(x))
    model: Model = HistGradientBoostingRegressor(**_trees()).fit(x[rows], target[rows]).predict
    return model


def classifier(x: Array, target: Array) -> Model:
    """Predict the expected level by boosted trees over the levels of the metric."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = some(len(x))
    levels, index = np.unique(target[rows], return_inverse=True)
    if len(levels) < 2:
        return constant(x, target)
    fitted = HistGradientBoostingClassifier(**_trees()).fit(x[rows], index)
    return lambda q: fitted.predict_proba(q) @ levels


def _trees() -> dict[str, Any]:
    return {
        "max_iter": 100,
        "learning_rate": 0.06,
        "max_leaf_nodes": 8,
        "min_samples_leaf": 20,
        "l2_regularization": 1.0,
        "early_stopping": False,
    }


LEARNERS: dict[str, Callable[[Array, Array], Model]] = {
    "constant": constant,
    "single": partial(linear, count=1),
    "linear": linear,
    "regressor": regressor,
    "classifier": classifier,
}


@dataclass(frozen=True)
class Fitted:
    """A learner fitted and calibrated on some rows; `inner` (N,) are its predictions of them, cross-fitted inside."""

    model: Model
    learner: str
    schema: str
    line: tuple[float, float]
    bounds: tuple[float, float]
    margin: float
    inner: Array
    edges: Array
    residuals: Array

    def predict(self, features: Features) -> Array:
        """Return the predicted contributions (N,); features of another schema are refused."""
        values, names = features
        if schema(names) != self.schema:
            raise ValueError(f"features {names} are not those that the predictor was fitted on")
        return np.asarray(np.clip(np.polyval(self.line, self.model(values)), *self.bounds))

    def interval(self, predicted: Array) -> tuple[Array, Array]:
        """Return the split-conformal 90 % interval of predictions, from inner residuals of rows predicted alike.

        It is never narrower than the standard error of the mean contribution: pseudo-values of other rows stand on
        another score. Rows that are just right or wrong (1 or 0) need no such margin.
        """
        at = np.searchsorted(self.edges, predicted)
        low, high = (np.clip(predicted + self.residuals[at, side], *self.bounds) for side in (0, 1))
        return low - self.margin, high + self.margin


def parts_of(units: Array, seed: int) -> Array:
    """Return one of three parts (N,) for each row, at random; rows of one unit stay together."""
    names, index = np.unique(units, return_inverse=True)
    return np.asarray((np.random.default_rng([seed, 1]).permutation(len(names)) % PARTS)[index])


def fit(features: Features, target: Array, units: Array, seed: int) -> Fitted:
    """Fit the learner that predicts best across parts of whole units, calibrated on those predictions."""
    values, names = features
    parts, learners = parts_of(units, seed), ["constant", "single", "linear"]
    if len(np.unique(units)) >= TREES_FROM:
        learners += ["regressor"] + ["classifier"] * (len(np.unique(target)) <= LEVELS)
    bounds = (float(target.min()), float(target.max()))
    lines, inner = {}, {}
    with one_thread():
        for name in learners if np.ptp(target) else learners[:1]:
            raw = _across(LEARNERS[name], values, target, parts)
            lines[name] = _calibrate(raw, target)
            inner[name] = np.clip(np.polyval(lines[name], raw), *bounds)
        best = min(inner, key=lambda name: float(((inner[name] - target) ** 2).mean()))
        model = LEARNERS[best](values, target)
    margin = 0.0 if set(target.tolist()) <= {0, 1} else float(target.std() / np.sqrt(len(np.unique(units))))
    edges, residuals = _residuals(inner[best], target)
    return Fitted(model, best, schema(names), lines[best], bounds, margin, inner[best], edges, residuals)


def _across(learner: Callable[[Array, Array], Model], values: Array, target: Array, parts: Array) -> Array:
    """Return predictions (N,) of each part by a model fitted on the others (of a single part, on itself)."""
    raw = np.empty(len(target))
    for part in np.unique(parts):
        mine = parts == part
        rest = mine if mine.all() else ~mine
        raw[mine] = learner(values[rest], target[rest])(values[mine])
    return raw


def _calibrate(raw: Array, target: Array) -> tuple[float, float]:
    """Return slope and offset of the line from predictions to the target.

    A slope below one takes back what the learner made of noise; a negative one would be noise itself.
    """
    spread = float(raw.var())
    slope = float(np.clip(np.mean((raw - raw.mean()) * target) / spread, 0, 2)) if spread else 0.0
    return slope, float(target.mean() - slope * raw.mean())


def _residuals(predicted: Array, target: Array) -> tuple[Array, Array]:
    """Return edges between rows predicted alike, and the residual quantiles (bins x 2) that 90 % lie within."""
    bins = 5 if len(target) >= 200 else 1
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    at, residuals = np.searchsorted(edges, predicted), []
    for b in range(len(edges) + 1):
        inside = np.sort((target - predicted)[at == b] if (at == b).any() else target - predicted)
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
        said = fitted.predict((values[mine], names))
        line = np.polyfit(heuristic[~mine], wanted[~mine], 1) if np.ptp(heuristic[~mine]) else [0, wanted[~mine].mean()]
        rule = np.clip(np.polyval(line, heuristic[mine]), *fitted.bounds)
        out[:, mine] = [said, *fitted.interval(said), np.full(mine.sum(), wanted[~mine].mean()), rule]
        by_fold[k] = fitted
    predicted, low, high, mean, rule = out
    return Predictor(predicted, low, high, mean, rule, by_fold, fit(view(None), target(None), units, seed))
