"""Stacking: a model on the members' predictions and the metadata, fitted for fold k on the rows of the other folds.

Its own setting is chosen inside those rows, fold by fold (Wolpert 1992; ridge on predictions: Breiman 1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.scoring.blend import to_space
from pipeline.scoring.problem import Problem
from pipeline.scoring.synthetic import enlarged
from pipeline.store.files import Array
from pipeline.tasks import Task

MOST = 100_000
GRIDS: dict[str, dict[str, list[Any]]] = {
    "ridge": {"ridge__alpha": [0.1, 1.0, 10.0, 100.0, 1000.0]},
    "logistic": {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]},
    "boosted": {"max_leaf_nodes": [3, 8], "max_iter": [50, 150]},
}


def one_thread() -> AbstractContextManager[Any]:
    """Hold OpenMP to one thread: sums are the same everywhere, and small trees only lose by sharing cores."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def some(rows: int) -> Array:
    """Return the positions of rows that small boosted trees are fitted on: all, or `MOST` at random, in order.

    More rows would cost time in proportion and move no split that so few leaves can hold.
    """
    if rows <= MOST:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))


def inputs(task: Task, members: Sequence[Array], meta: Array) -> Array:
    """Return the features (N F) of rows: logits or values of the members (N P each), then the metadata (N M)."""
    space = "logit" if task.probabilities else "probability"
    return np.column_stack([*(to_space(task, p, space) for p in members), meta])


@dataclass(frozen=True)
class Stack:
    """How a stacker is fitted: features (N F) of the scored rows, ridge, logistic or boosted, its seed.

    With `synthetic` rows of rare classes are made for every fit, of the rows that it is fitted on.
    """

    problem: Problem
    x: Array
    method: str
    seed: int
    synthetic: str = "none"

    def fit(self, rows: Array) -> list[Any]:
        """Fit on the rows of a mask; return one fitted estimator a target column (one for all classes)."""
        with one_thread():
            return self._fit(rows)

    def _fit(self, rows: Array) -> list[Any]:
        y = self.problem.y.reshape(len(self.problem.y), -1)
        weight = None if self.problem.weight is None else self.problem.weight[rows]
        return [self._search(self.x[rows], y[rows, t], self.problem.folds[rows], weight) for t in range(y.shape[1])]

    def predict(self, fitted: list[Any], x: Array) -> Array:
        """Return predictions (n P, float32) in the shapes of `pipeline.tasks`."""
        task = self.problem.task
        if not task.probabilities:
            return np.column_stack([model.predict(x) for model in fitted]).astype(np.float32)
        said = [_shares(model, x, 2 if task.name != "multiclass" else self.problem.classes) for model in fitted]
        if task.name == "multiclass":
            return said[0].astype(np.float32)
        return np.column_stack([p[:, 1] for p in said]).astype(np.float32)

    def crossfit(self) -> tuple[Array, dict[int, list[Any]], list[Any]]:
        """Return OOF predictions (N P), the estimators of each fold, fitted without it, and the deployed ones."""
        folds = self.problem.folds
        by_fold = {int(k): self.fit(folds != k) for k in np.unique(folds)}
        width = self.problem.task.width(self.problem.classes)
        oof = np.zeros((len(folds), width), np.float32)
        for k, fitted in by_fold.items():
            oof[folds == k] = self.predict(fitted, self.x[folds == k])
        return oof, by_fold, self.fit(np.ones(len(folds), bool))

    def _search(self, x: Array, y: Array, folds: Array, weight: Array | None) -> Any:
        from sklearn.base import clone
        from sklearn.dummy import DummyClassifier
        from sklearn.model_selection import ParameterGrid

        classes = self.problem.task.probabilities
        if classes and len(np.unique(y)) < 2:
            return DummyClassifier(strategy="prior").fit(x, y)
        model = _estimator(self.method, classes, self.seed)
        if classes:
            # Without such a fold one class is left: it cannot help to choose.
            alone = [k for k in np.unique(folds) if len(np.unique(y[folds != k])) < 2]
            folds = np.where(np.isin(folds, alone), -1, folds)
        step = "" if self.method == "boosted" else f"{model.steps[-1][0]}__"

        def learn(model: Any, rows: Array) -> Any:
            mine = x[rows], y[rows], None if weight is None else weight[rows]
            xs, ys, ws = mine if self.synthetic == "none" else enlarged(self.synthetic, *mine, self.seed)
            return model.fit(xs, ys, **({} if ws is None else {f"{step}sample_weight": ws}))

        if len(np.unique(folds)) < 2:
            return learn(model, np.arange(len(y)))
        w = np.ones(len(y)) if weight is None else weight

        def lost(settings: dict[str, Any]) -> float:
            total = 0.0
            for k in np.unique(folds[folds >= 0]):
                mine = folds == k
                fitted = learn(clone(model).set_params(**settings), ~mine)
                rows = -_log_p(fitted, x[mine], y[mine]) if classes else (fitted.predict(x[mine]) - y[mine]) ** 2
                total += float(w[mine] @ rows) / max(float(w[mine].sum()), 1e-9)
            return total

        best = min(ParameterGrid(GRIDS[self.method]), key=lost)
        return learn(model.set_params(**best), np.arange(len(y)))


def _estimator(method: str, classes: bool, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if method == "boosted":
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        return kind(learning_rate=0.05, random_state=seed)
    last = LogisticRegression(max_iter=1000) if method == "logistic" else Ridge()
    return make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler(), last)


def _shares(model: Any, x: Array, classes: int) -> Array:
    """Return probabilities of all classes 0..C-1: 0 for one that the model was never shown."""
    out = np.zeros((len(x), classes))
    out[:, np.asarray(model.classes_, int)] = model.predict_proba(x)
    return out


def _log_p(model: Any, x: Array, y: Array) -> Array:
    """Return log p of the truth (N); a class that the model was never shown costs what a probability of 1e-6 costs."""
    p = _shares(model, x, int(max(y.max(), model.classes_.max())) + 1)
    return np.asarray(np.log(np.clip(p[np.arange(len(y)), y.astype(int)], 1e-6, 1)))
