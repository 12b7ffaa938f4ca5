"""What is learnt of candidates and of objects: boosted trees on label-free features, blind to whole folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.forecast.mask_survey import Action, Goal, Source, Survey, prune, survey
from pipeline.forecast.mask_worth import worth
from pipeline.scoring.problem import Problem
from pipeline.scoring.stack import one_thread
from pipeline.store.files import Array

Model = Callable[[Array], Array]
# Fewer examples than this and no tree is grown; more than this teach no more and cost time.
FEW, MANY = 100, 60_000


def trees(x: Array, target: Array) -> Model:
    """Fit boosted trees on examples (n F), an even choice where they are many; return what predicts others.

    Predictions stay inside the range of the target.
    """
    if len(x) > MANY:
        some = np.linspace(0, len(x) - 1, MANY).astype(np.int64)
        x, target = x[some], target[some]
    low, high = (float(target.min()), float(target.max())) if len(target) else (0.0, 0.0)
    if len(x) < FEW or low == high:
        mean = float(target.mean()) if len(target) else 0.0
        return lambda q: np.full(len(q), mean)
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.06, max_leaf_nodes=16, min_samples_leaf=30, l2_regularization=1.0,
        early_stopping=False, random_state=0,
    )  # fmt: skip
    with one_thread():
        model.fit(x, target)

    def predict(q: Array) -> Array:
        with one_thread():
            return np.asarray(np.clip(model.predict(q), low, high)) if len(q) else np.zeros(0)

    return predict


def opinions(objects: Array, value: Array, fold: Array, ks: list[int]) -> tuple[Array, Model]:
    """Return what is thought of objects (K n) for the use of each fold of `ks`, and the model fitted on all of them.

    For the use of fold k an object of fold j is told of by a model that saw neither: what is fitted on it for fold k
    stays blind to k, and the object's own label is in none of it. `fold` (n,) is that of the object's image.
    """
    found = np.zeros((len(ks), len(value)))
    for out in [(k,) for k in ks] + list(combinations(ks, 2)):
        model = trees(objects[~np.isin(fold, out)], value[~np.isin(fold, out)])
        for j, k in {(out[0], out[-1]), (out[-1], out[0])}:
            mine = fold == j
            found[ks.index(k), mine] = model(objects[mine])
    return found, trees(objects, value)


@dataclass(frozen=True)
class Table:
    """All candidates (A actions, P cuts) of the scored images: features and statistics, K views of those cut.

    The first `base` actions are always offered; `view` (N,) is the view that an image's own fold has.
    """

    problem: Problem
    base: int
    seen: Survey
    values: Array
    cut: Array
    cut_stats: Array
    view: Array

    def fit(self, rows: Array, view: Array) -> Model:
        """Fit the scores of candidates of some rows (positions); `view` (n,) is whose cut ones they know."""
        features = np.concatenate([self.seen.features[rows, : self.base], self.cut[rows, view]], 1)
        stats = np.concatenate([self.seen.stats[rows, : self.base], self.cut_stats[rows, view]], 1)
        target = worth(self.problem.part(rows), stats, self.seen.stats[rows, 0])
        return trees(features.reshape(-1, features.shape[2]), target.ravel())

    def predict(self, plain: Array) -> Array:
        """Predict the scores (N A+P) of each fold's candidates without it, -inf for those of other folds alone."""
        a = self.seen.stats.shape[1]
        told = np.full((len(plain), a + self.cut.shape[2]), -np.inf)
        for v in range(self.cut.shape[1]):
            mine, rest = np.flatnonzero(self.view == v), np.flatnonzero(self.view != v)
            model = self.fit(rest, np.full(len(rest), v))
            offered = [*range(self.base), *({int(plain[mine[0]])} - set(range(self.base)))]
            features = np.concatenate([self.seen.features[mine][:, offered], self.cut[mine, v]], 1)
            said = model(features.reshape(-1, features.shape[2])).reshape(features.shape[:2])
            told[np.ix_(mine, [*offered, *range(a, told.shape[1])])] = said
        return told

    def whole(self) -> tuple[Array, Array, Array]:
        """Return statistics (N A+P k) and worth (N A+P) as each fold has them, and the objects' values (n,)."""
        rows, owner = np.arange(len(self.view)), self.seen.owner
        stats = np.concatenate([self.seen.stats, self.cut_stats[rows, self.view]], 1)
        worths = worth(self.problem, stats, self.seen.stats[:, 0])
        return stats, worths, self.values[self.view[owner], np.arange(len(owner))]


def tabulate(
    problem: Problem, source: Source, goal: Goal, actions: Sequence[Action], base: int
) -> tuple[Table, Model | None]:
    """Return the candidates of the scored images, and the deployed model of objects (None: none are dropped).

    With two folds there is no model of objects that is blind to one and to the other: none are dropped.
    """
    ks, view = np.unique(problem.folds, return_inverse=True)
    seen, objects = survey(source, actions, goal), None
    values, width = np.zeros((len(ks), len(seen.owner))), seen.features.shape[2]
    cut = np.zeros((len(view), len(ks), 0, width), np.float32)
    cut_stats = np.zeros((*cut.shape[:3], seen.stats.shape[2]))
    if len(ks) > 2 and len(seen.owner):
        values, objects = opinions(seen.objects, seen.value, problem.folds[seen.owner], ks.tolist())
        cut, cut_stats = prune(source, seen.owner, values, goal)
    return Table(problem, base, seen, values, cut, cut_stats, view), objects
