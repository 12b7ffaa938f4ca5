"""Fit again, from what they may rest on, the numbers that a receipt tells: what comes out otherwise is doubted.

A number fitted without fold k tells nothing of fold k's labels only if a fit without fold k gives that very number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from pipeline.scoring.blend import Blend, from_space, mix, to_space
from pipeline.scoring.cuts import Problem, fit
from pipeline.scoring.metrics import get_metric
from pipeline.scoring.pseudo import Rule, choose, entries, say, sureness
from pipeline.store.files import Array, number
from pipeline.store.records import Doubt, Shelf
from pipeline.tasks import TASKS

# Weights fitted on another processor differ in late digits (a log loss is flat at its optimum); so small a leak is none.
CLOSE = 1e-3


def refit(shelf: Shelf) -> Iterator[Doubt]:
    """Yield what of a run's weights, predictions, cuts, score and pseudo-labels cannot be had again."""
    task = TASKS[shelf.competition.task]
    problem = Problem.of(shelf.table, task, get_metric(shelf.competition.metric, task))
    if shelf.stage == "pseudo":
        yield from labels(shelf, problem)
    if shelf.stage == "train":
        yield from epochs(shelf, problem)
    if shelf.stage in ("train", "lb"):
        yield from decisions(shelf, problem, shelf.oof, dict.fromkeys(shelf.receipt["folds"], shelf.oof))
    if shelf.stage == "ensemble":
        yield from blend(shelf, problem)


def blend(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt weights of a fold that are not fitted without it, and predictions that are not of these weights."""
    config, task, space = shelf.receipt["config"], problem.task, shelf.receipt["config"]["space"]
    spaced = [to_space(task, member.oof, space, problem.folds) for member in shelf.members]
    hand = None if config["weights"] is None else np.array(config["weights"])
    fitting = {name: config[name] for name in ("seed", "steps", "bags")}
    solver = Blend(problem, spaced, space, config["method"], hand, **fitting)
    views = {}
    for k in shelf.receipt["folds"]:
        told, mine = np.array(shelf.receipt["weights_by_fold"][str(k)]), problem.folds == k
        views[k] = solver.predict(told).astype(np.float32)
        if not np.allclose(told, solver.fit(~mine)[0], atol=CLOSE):
            all_rows = solver.fit(np.ones(len(mine), bool))[0]
            yield Doubt(k, f"the weights of fold {k} are not those of a fit without it{_in_sample(told, all_rows)}")
        if not np.allclose(shelf.oof[mine], views[k][mine], atol=1e-5):
            yield Doubt(k, f"the rows of fold {k} are not blended with the weights of fold {k}")
        tests = [to_space(task, member.test(k), space) for member in shelf.members]
        if not np.allclose(shelf.test(k), from_space(task, mix(tests, told), space), atol=1e-5):
            yield Doubt(k, f"the test predictions of fold {k} are not blended with the weights of fold {k}")
    yield from decisions(shelf, problem, shelf.oof, views)


def decisions(shelf: Shelf, problem: Problem, oof: Array, views: dict[int, Array]) -> Iterator[Doubt]:
    """Doubt cuts of a fold that are not fitted without it, and a score that is not that of the cross-fitted cuts.

    `views[k]`: all OOF predictions (N P) as fold k may see them.
    """
    told, metric, task = shelf.receipt["decision"], problem.metric, problem.task
    method, labels = shelf.receipt["config"].get("decision", "auto"), np.zeros_like(problem.y)
    for k, view in views.items() if told else ():
        mine, cuts = problem.folds == k, np.array(told["by_fold"][str(k)])
        labels[mine] = task.decide(view[mine], cuts)
        if not np.allclose(cuts, fit(problem, method, ~mine, view)[0], atol=CLOSE):
            all_rows = fit(problem, method, np.ones(len(mine), bool), view)[0]
            reason = f"the cuts of fold {k} are not those of a fit without it{_in_sample(cuts, all_rows)}"
            yield Doubt(k, reason, rows=False)
    weight = np.ones(len(problem.y))
    score = (
        metric.function(problem.y, labels, weight)
        if told
        else metric(task, problem.y, oof, task.default_cuts(problem.classes))
    )
    if not np.isclose(score, number(shelf.receipt["metrics"]["score"]), atol=1e-6, equal_nan=True):
        yield Doubt(
            None,
            f"the score {shelf.receipt['metrics']['score']} is not what its predictions give, {score:.6f}",
            rows=False,
        )


def _in_sample(told: Array, all_rows: Array) -> str:
    """Say so where a number is that of all rows."""
    return ", but of all rows: it was fitted in-sample" if np.allclose(told, all_rows, atol=CLOSE) else ""


def labels(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt pseudo-labels that name fold k's model and are not what the teachers' models of fold k say."""
    config, task, frame = shelf.receipt["config"], problem.task, shelf.named
    cuts, ids = task.default_cuts(problem.classes), shelf.table.ids[shelf.table.test]
    quotas = config["quota"] if isinstance(config["quota"], list) else [config["quota"]]
    quota = quotas[min(len(shelf.receipt.get("rounds", [])) - 1, len(quotas) - 1)]
    rule = Rule(config["select"], quota, config["threshold"], config["stratify"])
    tests = {k: np.stack([teacher.test(k) for teacher in shelf.members]) for k in shelf.receipt["folds"]}
    everyone = np.mean(list(tests.values()), 0)
    for k, members in tests.items():
        mine = frame[frame["fold"] == k]
        if mine["id"].duplicated().any():
            yield Doubt(k, f"a row names the model of fold {k} twice")
            continue
        told = mine.set_index("id").reindex(ids)
        mean, sure = members.mean(0), sureness(task, members, cuts, rule.select)
        kept = choose(rule, sure, entries(task, mean, cuts)) & _allowed(shelf, ids, k)[:, None]
        given = told["fold"].notna().to_numpy()
        if (odd := given != kept.any(1)).any():
            yield Doubt(k, f"{odd.sum()} rows are chosen otherwise than models of fold {k} choose{_example(ids, odd)}")
        values = told.filter(regex=r"^t\d+$").to_numpy(float)

        both, said = given & kept.any(1), partial(say, task, kept=kept, cuts=cuts, targets=config["targets"])
        said = partial(said, temperature=config["temperature"])
        if (odd := both & ~_alike(values, said(mean))).any():
            all_folds = _alike(values[both], said(everyone.mean(0))[both]).all()
            source = ", but what the models of all folds say" if all_folds else ""
            yield Doubt(k, f"{odd.sum()} labels are not what models of fold {k} say{source}{_example(ids, odd)}")


def _alike(one: Array, other: Array) -> Array:
    """Return which rows are the same but for what a CSV rounds off."""
    return np.asarray(np.isclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True).all(1))


def epochs(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt epochs that are not the best of the other folds' mean curve."""
    curves = {model.name: model.header["curve"] for model in shelf.models if "curve" in model.header}
    for model in shelf.models:
        others = [curves[m.name] for m in shelf.models if m.named != model.named and m.name in curves]
        if model.name in curves and others and shelf.receipt["config"]["select"] == "best":
            gains = [
                np.nan_to_num(problem.metric.gain(c, 0.0), nan=-np.inf)
                for c in (np.mean(others, 0), curves[model.name])
            ]
            best, own = (int(np.argmax(gain)) for gain in gains)
            if model.header["epoch"] != best:
                why = ", but of its own: it stopped itself" if model.header["epoch"] == own else ""
                yield Doubt(
                    model.named[0],
                    f"epoch {model.header['epoch']} of {model.name} is not the best of the other folds{why}",
                )


def _allowed(shelf: Shelf, ids: Array, fold: int) -> Array:
    """Return the test rows (N,) that may be pseudo-labelled: all, or those that are easy to models blind to a fold."""
    if shelf.tags is None:
        return np.ones(len(ids), bool)
    tags = shelf.tags.named
    return np.isin(ids, tags["id"][(tags["fold"] == fold) & (tags["tag"] == "easy")].to_numpy(str))


def _example(ids: Array, odd: Array) -> str:
    return f", for example id {str(ids[odd][0])!r}"
