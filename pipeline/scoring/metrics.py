"""Competition metrics on whole arrays, with sample weights; never averages over batches.

`METRICS` are those that have a name; one of a family is called by its number (`map_at_5`, `top_3_accuracy`,
`pinball_0.9`), one of the user's own as `module:attribute` (a `Metric`), a competition's own file as `metric.py`
(`pipeline.scoring.kaggle`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from pipeline.masks.metrics import MASK_METRICS, MaskMetric
from pipeline.scoring import classification as c
from pipeline.scoring import ranking, values
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Competition
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array
from pipeline.tasks import TASKS, Task

Function = Callable[[Array, Array, Array], float]
Rows = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Metric:
    """A metric: its function `(y, p, weight)`, what it wants of a prediction, its direction and its tasks.

    `rows`: the score of single rows, where the metric is their mean (rmse: its root); `soft`: the same for soft classes
    (a metric without it is refused there). `unknown`: what is made of targets that are not known (NaN): the mean over
    the columns of each on its known rows, or the function sees to it. `shares`: weights of the columns in that mean.
    `grouped`: it is the mean over groups of what it is inside each. `draws`: it knows whole rows only, each drawn so
    and so often, and no sample weights (a metric file).
    """

    name: str
    function: Function
    label: bool
    greater: bool
    tasks: tuple[str, ...]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    rows: Rows | None = None
    soft: Rows | None = None
    unknown: Literal["columns", "itself", "refused"] = "refused"
    shares: tuple[float, ...] | None = None
    grouped: bool = False
    draws: bool = False

    @property
    def built_in(self) -> bool:
        """Say whether the function is ours, so that what is known of it may be used."""
        known = METRICS.get(self.name)
        return known is not None and known.function is self.function

    def __call__(self, task: Task, y: Array, prediction: Array, cuts: Array, weight: Array | None = None) -> float:
        """Score predictions (N P) against targets; label metrics decide by `cuts` first."""
        return self.score(task, y, self.wanted(task, prediction, cuts), np.ones(len(y)) if weight is None else weight)

    def wanted(self, task: Task, prediction: Array, cuts: Array) -> Array:
        """Return what the metric is given of predictions (N P): labels by `cuts`, or probabilities or values."""
        if self.label:
            return task.decide(prediction, cuts)
        return prediction[:, 0] if task.name in ("binary", "ordinal") else prediction

    def score(self, task: Task, y: Array, guess: Array, weight: Array) -> float:
        """Score what the metric wants against targets, which may be soft or partly unknown where it can take them."""
        if task.name == "multiclass" and y.ndim == 2 and not self.draws:
            assert self.soft is not None, f"{self.name} takes no soft classes"
            return float(np.average(self.soft(y, guess), weights=weight))
        lacking = y.ndim == 2 and y.dtype.kind == "f" and self.unknown == "columns" and np.isnan(y).any()
        if lacking or self.shares is not None:
            return by_column(self.function, y, guess, weight, self.shares)
        return self.function(y, guess, weight)

    def refuse_grades(self, task: Task, classes: list[str]) -> None:
        """Refuse grades that a metric of values would have to measure."""
        if not self.label:
            task.refuse_grades(classes, f"metric {self.name}")

    def gain(self, new: Array | float, old: Array | float) -> Array:
        """Return how much better `new` is than `old`, positive for better."""
        sign = 1 if self.greater else -1
        return np.asarray(sign * (np.asarray(new) - np.asarray(old)))


def by_column(function: Function, y: Array, p: Array, weight: Array, shares: tuple[float, ...] | None) -> float:
    """Return the mean over columns (by `shares`) of the metric of each on its known rows, where it has one."""
    scores = np.full(y.shape[1], np.nan)
    for j, known in enumerate(~np.isnan(y.T)):
        if weight[known].any():
            scores[j] = function(y[known][:, [j]], p[known][:, [j]], weight[known])
    there = np.isfinite(scores)
    mass = np.ones(len(scores)) if shares is None else np.array(shares)
    return float(np.average(scores[there], weights=mass[there])) if mass[there].any() else float("nan")


_CLASSES = ("binary", "multiclass", "multilabel")
_VALUES = ("ordinal", "regression")
_ONE = ("binary", "multiclass", "ordinal")
_SHARE, _LOSS, _KAPPA = (0.0, 1.0), (0.0, np.inf), (-1.0, 1.0)


def _f(beta: float, suffix: str, average: str, tasks: tuple[str, ...]) -> Metric:
    rows = partial(c.f_samples_rows, beta) if average == "samples" else None
    found = Metric(f"f{beta:g}{suffix}", partial(c.f_beta, beta, average), True, True, tasks, _SHARE, rows)
    return replace(found, unknown="columns" if average == "macro" else "itself")


def _map_at(k: int) -> Metric:
    mine = partial(c.map_at_rows, k)
    return Metric(f"map_at_{k}", partial(c.map_at, k), False, True, ("multiclass",), _SHARE, mine)


def _top(k: int) -> Metric:
    mine = partial(c.top_rows, k)
    return Metric(f"top_{k}_accuracy", partial(c.top_accuracy, k), False, True, ("multiclass",), _SHARE, mine)


def _pinball(q: float) -> Metric:
    mine = partial(values.pinball_rows, q)
    found = Metric(f"pinball_{q:g}", partial(values.pinball, q), False, False, _VALUES, _LOSS, mine)
    return replace(found, unknown="columns")


def _masks(metric: MaskMetric) -> Metric:
    """Return a metric of masks: what it is given as a prediction are the numbers of each image (N k)."""
    rows = _image_scores if metric.rows else None
    return Metric(metric.name, partial(_reduced, metric), False, metric.greater, ("segmentation",), _SHARE, rows)


def _reduced(metric: MaskMetric, y: Array, p: Array, weight: Array) -> float:
    return metric.reduce(p, weight)


def _image_scores(y: Array, p: Array) -> Array:
    return np.asarray(p.mean(1))


_AUC, _AP = (partial(ranking.one_vs_rest, f) for f in (ranking.binary_roc_auc, ranking.binary_average_precision))
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", c.accuracy, True, True, (*_ONE, "multilabel"), _SHARE, c.accuracy_rows, unknown="itself"),
        Metric("balanced_accuracy", c.balanced_accuracy, True, True, _ONE, _SHARE),
        Metric("log_loss", c.log_loss, False, False, _CLASSES, _LOSS, c.log_loss_rows, c.soft_log_loss_rows, "columns"),
        Metric("balanced_log_loss", c.balanced_log_loss, False, False, ("binary", "multiclass"), _LOSS),
        Metric("kl_divergence", c.kl_divergence, False, False, _CLASSES, _LOSS, c.kl_divergence_rows,
               c.soft_kl_divergence_rows, "columns"),
        Metric("brier", c.brier, False, False, _CLASSES, _LOSS, c.brier_rows, c.soft_brier_rows, "columns"),
        Metric("roc_auc", _AUC, False, True, _CLASSES, _SHARE, unknown="columns"),
        Metric("average_precision", _AP, False, True, _CLASSES, _SHARE, unknown="columns"),
        Metric("weighted_auc", ranking.weighted_auc, False, True, ("binary",), _SHARE),
        *(_map_at(k) for k in (3, 5)),
        _top(3),
        Metric("quadratic_kappa", c.quadratic_kappa, True, True, ("ordinal",), _KAPPA),
        Metric("linear_kappa", c.linear_kappa, True, True, ("ordinal",), _KAPPA),
        Metric("rmse", values.rmse, False, False, _VALUES, _LOSS, values.squared_rows, unknown="itself"),
        Metric("mcrmse", values.mcrmse, False, False, ("regression",), _LOSS, unknown="columns"),
        Metric("mae", values.mae, False, False, _VALUES, _LOSS, values.absolute_rows, unknown="columns"),
        Metric("r2", values.r2, False, True, _VALUES, (-np.inf, 1.0), values.r2_rows, unknown="columns"),
        *(_pinball(q) for q in (0.1, 0.5, 0.9)),
        Metric("pearson", values.pearson, False, True, _VALUES, _KAPPA, unknown="columns"),
        Metric("spearman", values.spearman, False, True, _VALUES, _KAPPA, unknown="columns"),
        *(
            _f(beta, suffix, average, tasks)
            for beta in (0.5, 1.0, 2.0)
            for suffix, average, tasks in (
                ("", "binary", ("binary",)),
                ("_macro", "macro", (*_ONE, "multilabel")),
                ("_micro", "micro", (*_ONE, "multilabel")),
                ("_samples", "samples", ("multilabel",)),
            )
        ),
        *(_masks(m) for m in MASK_METRICS.values()),
    )
}  # fmt: skip
FAMILIES: dict[str, Callable[[str], Metric]] = {
    r"map_at_([1-9]\d*)": lambda k: _map_at(int(k)),
    r"top_([1-9]\d*)_accuracy": lambda k: _top(int(k)),
    r"pinball_(0?\.\d*[1-9])0*": lambda q: _pinball(float(q)),
}


def get_metric(name: str, task: Task) -> Metric:
    """Return a metric by name, refused where it has no meaning for the task."""
    for pattern, make in FAMILIES.items():
        if name not in METRICS and (found := re.fullmatch(pattern, name)):
            made = make(found.group(1))
            METRICS.setdefault(made.name, made)
            name = made.name
    metric = resolve(METRICS, name, "metric")
    if not isinstance(metric, Metric):
        raise UserError(f"metric {name!r} must be a pipeline.scoring.metrics.Metric, not {type(metric).__name__}")
    if task.name not in metric.tasks:
        fitting = ", ".join(sorted(m.name for m in METRICS.values() if task.name in m.tasks))
        raise UserError(f"metric {name!r} does not fit a {task.name} task; choices: {fitting}")
    return metric


def metric_of(config: Competition, files: CompetitionFiles) -> Metric:
    """Return the metric of a contract; what it asks of the metric that it cannot do is refused."""
    if config.metric.endswith(".py"):
        from pipeline.scoring.kaggle import from_file

        metric = from_file(config, files)
    elif config.targets is not None:
        from pipeline.scoring.several import together

        metric = together(config, str(files.config))
    else:
        metric = get_metric(config.metric, TASKS[config.task])
    where = f"{files.config}: metric {metric.name!r}"
    if config.soft and metric.soft is None and not (metric.draws and not metric.label):
        fitting = ", ".join(sorted(m.name for m in METRICS.values() if m.soft is not None))
        raise UserError(f"{where} cannot score soft targets; choices: {fitting}")
    if config.unknown == "mask" and metric.unknown == "refused":
        raise UserError(f'{where} cannot score partly unknown targets (unknown = "mask"): use another metric')
    if config.metric_weights is not None:
        metric = replace(metric, shares=_shares(config, metric, where))
    return replace(metric, grouped=True) if config.metric_per_group else metric


def _shares(config: Competition, metric: Metric, where: str) -> tuple[float, ...]:
    """Return the weight of each label or target, 1 where the contract gives none."""
    assert config.metric_weights is not None
    names = config.target if isinstance(config.target, list) else config.classes
    if names is None or config.task not in ("multilabel", "regression") or metric.unknown != "columns":
        raise UserError(f"{where}: metric_weights needs a mean over labels or targets whose names the contract gives")
    odd = sorted(set(config.metric_weights) - set(names))
    if odd:
        raise UserError(f"{where}: metric_weights names {odd[0]!r}, which is none of {names}")
    return tuple(config.metric_weights.get(name, 1.0) for name in names)
