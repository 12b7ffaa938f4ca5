"""Tags of rows from all that is known of them: for a report, cross-fitted, and for training, blind to a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.difficulty.difficulty import (
    AMBIGUOUS,
    SUSPECT,
    TAGS,
    Difficulty,
    as_ranked,
    crossfit,
    cut_offs,
    fit_errors,
    stated_doubt,
    suggest,
    wrong_rows,
)
from pipeline.difficulty.labels import belief, epoch_parts, label_wrong, margins, self_confidence, suspicion
from pipeline.scoring.features import label_free
from pipeline.scoring.problem import Problem
from pipeline.store.files import Array


@dataclass(frozen=True)
class Seen:
    """What a run and the M trained runs below it (`leaves`) know of N scored and T test rows (P columns), by fold.

    `labels` are the run's decisions on its `oof` (N P). `epochs` N x (P + 4): `epochs.npy` of the models of a fold and
    the share of them whose AUM is below that of indicator samples; NaN where no model trained on a row. `looks` (2
    columns): spread over views and distance to the training rows. `other`: disagreement of the neighbours' labels.
    `test` (1 + M) T P: by the run's and the leaves' models of a fold. `pairs`: the rows of each other fold (N P) by
    models that saw neither fold, and the test rows by each of these models; none unless tags are to be strict.
    """

    problem: Problem
    oof: Array
    labels: Array
    leaves: Array
    epochs: dict[int, Array]
    looks: Array
    other: Array
    test: dict[int, Array]
    test_looks: dict[int, Array]
    statistics: Array
    pairs: dict[int, tuple[Array, list[Array]]] | None = None

    def features(self, slabs: Array, rows: Array | slice, looks: Array) -> tuple[Array, list[str]]:
        """Return label-free features (R F) of rows, first the doubt that the first of the slabs (M R P) states."""
        task, members = self.problem.task, slabs if len(slabs) > 2 else slabs[:1]
        values, names = label_free(task, members, looks[:, 0], looks[:, 1], self.statistics[rows])
        return np.column_stack([stated_doubt(task, slabs[0]), values]), ["stated_doubt", *names]


@dataclass(frozen=True)
class Report:
    """P(label wrong) (N,), the errors (N,), P(error) and tags (N + T,); evidence (N,) and features (N + T,) by name."""

    label_wrong: Array
    wrong: Array
    p_error: Array
    tags: Array
    difficulty: Difficulty
    evidence: dict[str, Array]
    features: dict[str, Array]


@dataclass(frozen=True)
class Blind:
    """Loss weight, tag, difficulty (N + T,) and suggested targets (N P, NaN where unknown), blind to a fold."""

    weight: Array
    tags: Array
    difficulty: Array
    targets: Array


def known_mean(slabs: Sequence[Array]) -> Array:
    """Return the mean of slabs (N F each) over those where a row is known; NaN where none knows it."""
    known = np.isfinite(slabs)
    count = known.sum(0)
    total, mean = np.where(known, slabs, 0.0).sum(0), np.full(count.shape, np.nan)
    return np.asarray(np.divide(total, count, out=mean, where=count > 0))


def evidence(problem: Problem, said: Array, epochs: Array) -> dict[str, Array]:
    """Return what speaks for a row's label (N,): predictions (N P) and training dynamics (N x (P + 4))."""
    parts = {"self_confidence": self_confidence(problem, said), "label_margin": margins(problem, said).min(1)}
    return parts | epoch_parts(problem, epochs[:, :-1]) | {"aum_low": epochs[:, -1]}


def assess(seen: Seen, easy_error: float, hard_share: float) -> Report:
    """Tag scored rows, cross-fitted along the folds, and test rows, by each fold's models and averaged."""
    problem, oof, n, width = seen.problem, seen.oof, len(seen.oof), seen.oof.shape[1]
    epochs = known_mean(list(seen.epochs.values()))
    unknown = np.isnan(epochs[:, 0])
    epochs[unknown] = np.median(epochs[~unknown], 0)
    epochs[unknown, :width] = oof[unknown]
    parts = evidence(problem, oof, epochs) | {"neighbours": seen.other}

    def doubt(rows: Array) -> Array:
        mine = {name: values[rows] for name, values in parts.items()}
        return label_wrong(problem.part(rows), [oof[rows], epochs[rows, :width]], mine)

    wrong = wrong_rows(problem, oof, seen.labels)
    x, names = seen.features(np.concatenate([oof[None], seen.leaves]), slice(0, n), seen.looks)
    found = crossfit(x, wrong, problem.folds, lambda rows: belief(doubt(rows)), easy_error, hard_share)
    views = [seen.features(slabs, slice(n, None), seen.test_looks[k])[0] for k, slabs in seen.test.items()]
    p_test = np.mean([found.model.predict(view) for view in views], 0)
    p_wrong = doubt(np.ones(n, bool))
    tags = np.concatenate([np.where(p_wrong > 0.5, SUSPECT, found.tags), found.cuts.tags(p_test)])
    columns = dict(zip(names, np.concatenate([x, np.mean(views, 0)]).T, strict=True))
    return Report(p_wrong, wrong, np.r_[found.p_error, p_test], tags, found, parts, columns)


def blind(seen: Seen, k: int, easy_error: float, hard_share: float) -> Blind:
    """Tag the rows outside fold k and the test rows as models know them that never saw fold k.

    They are the leaves' own models of fold k, by what they thought of their training rows over the epochs; in strict
    mode pair models, of rows that these did not train on either. Rows that no such model speaks of are ambiguous.
    """
    problem, n, epochs = seen.problem, len(seen.oof), seen.epochs[k]
    known = np.isfinite(epochs[:, 0])
    others, epochs = problem.part(known), epochs[known]
    over = epochs[:, : seen.oof.shape[1]]
    said, tests = over, [seen.test[k][1:].mean(0)]
    if seen.pairs is not None:
        said, tests = seen.pairs[k][0][known], seen.pairs[k][1]
    spoken = [over] if said is over else [said, over]
    p_wrong = label_wrong(others, spoken, evidence(others, said, epochs))
    wrong = wrong_rows(others, said, others.task.decide(said, others.task.default_cuts(others.classes)))

    def features(p: Array, rows: Array | slice) -> Array:
        return seen.features(p[None], rows, np.zeros((len(p), 2)))[0]

    model = fit_errors(features(said, np.flatnonzero(known)), wrong, belief(p_wrong), others.folds)
    cuts = cut_offs(model.own, wrong, belief(p_wrong), easy_error, hard_share)
    p = np.mean([model.predict(features(test, slice(n, None))) for test in tests], 0)
    # Predictions made while a model learns are less sure than those of the finished one on test rows; ranks compare.
    p = as_ranked(p, model.own) if said is over else p
    weight, targets = np.ones(n + len(p)), np.full(seen.oof.shape, np.nan)
    tags = np.concatenate([np.full(n, AMBIGUOUS, dtype="<U9"), cuts.tags(p)])
    difficulty = np.r_[np.full(n, np.median(model.own)), p]
    rows = np.flatnonzero(known)
    weight[rows], difficulty[rows], targets[rows] = 1 - p_wrong, model.own, suggest(others, said)
    tags[rows] = np.where(p_wrong > 0.5, SUSPECT, cuts.tags(model.own))
    return Blind(weight, tags, difficulty, targets)


def counts(seen: Seen, report: Report) -> dict[str, Any]:
    """Return how many labels are wrong, by tag, by the sum of P and by the confident joint, and the shares of tags."""
    n, (flags, _) = len(seen.oof), suspicion(seen.problem, seen.oof)
    suspects, estimated = (report.label_wrong > 0.5).sum(), report.label_wrong.sum()
    parts = {"train": report.tags[:n], "test": report.tags[n:]}
    return {
        "labels": {"suspects": int(suspects), "estimated": float(estimated), "confident_joint": int(flags.sum())},
        "shares": {part: {tag: float((tags == tag).mean()) for tag in TAGS} for part, tags in parts.items()},
    }
