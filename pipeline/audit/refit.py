"""Fit again, from what they may rest on, the numbers that a receipt tells: what comes out otherwise is doubted.

A number fitted without fold k tells nothing of fold k's labels only if a fit without fold k gives that very number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from pipeline.audit import maps
from pipeline.audit.records import Doubt, Shelf
from pipeline.difficulty.difficulty import SUSPECT, suggest
from pipeline.difficulty.tags import Seen, blind, known_mean
from pipeline.scoring.blend import Blend, compose, from_space, mix, to_space
from pipeline.scoring.blend import deployed as blend_weights
from pipeline.scoring.cuts import decide, fit
from pipeline.scoring.metrics import metric_of
from pipeline.scoring.problem import Problem
from pipeline.scoring.pseudo import Rule, choose, entries, say, sureness
from pipeline.scoring.stack import Stack, inputs
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array, number, read_npy
from pipeline.store.runs import STACKERS
from pipeline.store.shelves import PREDICTING
from pipeline.tasks import task_of

# Weights fitted on another processor differ in late digits (a log loss is flat at its optimum); cuts do not.
CLOSE, EXACT = 1e-3, 1e-6


def refit(shelf: Shelf) -> Iterator[Doubt]:
    """Yield what of a run's weights, predictions, cuts, score and pseudo-labels cannot be had again."""
    task = task_of(shelf.competition, shelf.table.classes)
    problem = Problem.of(shelf.table, task, metric_of(shelf.competition, RunFiles(shelf.run).competition))
    if shelf.stage == "pseudo":
        yield from maps.labels(shelf) if task.dense else labels(shelf, problem)
    if shelf.stage == "tag" and not task.dense:  # tags of masks are for a person to read: no model is told of them
        for r, table in enumerate(shelf.table.splits):
            yield from training_tags(shelf, Problem.of(table, task, problem.metric), r)
    if shelf.stage == "lb" and not task.dense:
        yield from unchanged(shelf)
    if shelf.stage == "full":
        yield from maps.refitted(shelf) if task.dense else deployed(shelf, problem)
    if shelf.stage == "train":
        yield from stopping(shelf, problem)
    if task.dense:
        if shelf.stage in PREDICTING:
            proofs = {"ensemble": maps.blend, "lb": maps.post_processed, "train": maps.decisions}
            yield from proofs[shelf.stage](shelf)
        return
    if shelf.stage in ("train", "lb"):
        yield from decisions(shelf, problem, shelf.oof, dict.fromkeys(shelf.receipt["folds"], shelf.oof))
    if shelf.stage == "ensemble":
        yield from (stack if shelf.receipt["config"]["method"] in STACKERS else blend)(shelf, problem)


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
            used = _in_sample(told, solver.fit(np.ones(len(mine), bool))[0], CLOSE)
            yield Doubt(k, f"the weights of fold {k} are not those of a fit without it{used}")
        if not np.allclose(shelf.oof[mine], views[k][mine], atol=1e-5):
            yield Doubt(k, f"the rows of fold {k} are not blended with the weights of fold {k}")
        tests = [to_space(task, member.view(k), space) for member in shelf.members]
        if not np.allclose(shelf.test(k), from_space(task, mix(tests, told), space), atol=1e-5):
            yield Doubt(k, f"the test predictions of fold {k} are not blended with the weights of fold {k}")
    yield from decisions(shelf, problem, shelf.oof, views)


def deployed(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt test predictions that are not those of the models of all rows, by the weights of the run they are of."""
    (run,) = (parent["run"] for parent in shelf.parents)
    made = {model.files.folder.name: model.test for model in shelf.models}
    tests = []
    for seed in shelf.receipt["folds"]:
        below = {leaf.run: made[f"all-{leaf.run.split('/')[-1]}-{seed}"] for leaf in shelf.leaves}
        tests.append(compose(problem.task, run, blend_weights, below))
        if not np.allclose(shelf.test(seed), tests[-1], atol=1e-5):
            yield Doubt(None, f"the test predictions of seed {seed} are not those of its models", rows=False)
    if not np.allclose(read_npy(shelf.files.test), np.mean(tests, 0), atol=1e-5):
        yield Doubt(None, "the test predictions are not the mean over the seeds", rows=False)


def stack(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt predictions of a fold that are not those of a stacker fitted without it."""
    task, config, meta = problem.task, shelf.receipt["config"], shelf.table.meta
    x = inputs(task, [member.oof for member in shelf.members], meta[shelf.table.scored])
    solver, views = Stack(problem, x, config["method"], config["seed"]), {}
    for k in shelf.receipt["folds"]:
        mine = problem.folds == k
        fitted = solver.fit(~mine)
        views[k] = solver.predict(fitted, x)
        if not np.allclose(shelf.oof[mine], views[k][mine], atol=CLOSE):
            yield Doubt(k, f"the rows of fold {k} are not predicted by a stacker fitted without it")
        test = solver.predict(fitted, inputs(task, [m.view(k) for m in shelf.members], meta[shelf.table.test]))
        if not np.allclose(shelf.test(k), test, atol=CLOSE):
            yield Doubt(k, f"the test predictions of fold {k} are not those of a stacker fitted without it")
    yield from decisions(shelf, problem, shelf.oof, views)


def decisions(shelf: Shelf, problem: Problem, oof: Array, views: dict[int, Array]) -> Iterator[Doubt]:
    """Doubt cuts of a fold that are not fitted without it, and a score that is not that of the cross-fitted cuts.

    `views[k]`: all OOF predictions (N P) as fold k may see them.
    """
    told, method = shelf.receipt["decision"], _method(shelf)
    by_fold = {k: np.array(told["by_fold"][str(k)]) for k in views} if told else {}
    for k, cuts in by_fold.items():
        mine, view = problem.folds == k, views[k]
        if not np.allclose(cuts, fit(problem, method, ~mine, view)[0], atol=EXACT):
            used = _in_sample(cuts, fit(problem, method, np.ones(len(mine), bool), view)[0], EXACT)
            yield Doubt(k, f"the cuts of fold {k} are not those of a fit without it{used}", rows=False)
    score = problem.judge(decide(problem, by_fold, views.__getitem__)) if told else problem.score(oof)
    published = number(shelf.receipt["metrics"]["score"])
    if not np.isclose(score, published, atol=EXACT, equal_nan=True):
        yield Doubt(None, f"its score {published:.6f} is not what its predictions give, {score:.6f}", rows=False)


def labels(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt pseudo-labels that name fold k's model and are not what the teachers' models of fold k say."""
    config, task, frame = shelf.receipt["config"], problem.task, shelf.named
    cuts, ids = task.default_cuts(problem.classes), shelf.table.ids[shelf.table.test]
    quotas = config["quota"] if isinstance(config["quota"], list) else [config["quota"]]
    quota = quotas[min(len(shelf.receipt.get("rounds", [])) - 1, len(quotas) - 1)]
    rule = Rule(config["select"], quota, config["threshold"], config["stratify"])
    models = [(k, r) for r in range(len(shelf.table.splits)) for k in shelf.receipt["folds"]]
    tests = {model: np.stack([teacher.test(*model) for teacher in shelf.members]) for model in models}
    everyone = np.mean(list(tests.values()), 0)
    for (k, r), members in tests.items():
        mine = frame[(frame["repeat"] == r) & (frame["fold"] == k)]
        if mine["id"].duplicated().any():
            yield Doubt(k, f"a row names the model of fold {k} twice", repeat=r)
            continue
        told = mine.set_index("id").reindex(ids)
        mean, sure = members.mean(0), sureness(task, members, cuts, rule.select)
        kept = choose(rule, sure, entries(task, mean, cuts)) & _allowed(shelf, ids, k, r)[:, None]
        given = told["fold"].notna().to_numpy()
        if (odd := given != kept.any(1)).any():
            what = f"{odd.sum()} rows are chosen otherwise than models of fold {k} choose{_example(ids, odd)}"
            yield Doubt(k, what, repeat=r)
        values = told.filter(regex=r"^t\d+$").to_numpy(float)

        both, said = given & kept.any(1), partial(say, task, kept=kept, cuts=cuts, targets=config["targets"])
        said = partial(said, temperature=config["temperature"])
        if (odd := both & ~_alike(values, said(mean))).any():
            all_folds = _alike(values[both], said(everyone.mean(0))[both]).all()
            source = ", but what the models of all folds say" if all_folds else ""
            what = f"{odd.sum()} labels are not what models of fold {k} say{source}{_example(ids, odd)}"
            yield Doubt(k, what, repeat=r)
        weight = np.nanmean(np.where(kept, sure, np.nan)[both], 1) if config["weight"] == "confidence" else 1.0
        if not np.allclose(told["weight"].to_numpy(float)[both], weight, rtol=1e-5):
            yield Doubt(k, f"labels of fold {k} weigh otherwise than how sure its models are", repeat=r)


def stopping(shelf: Shelf, problem: Problem) -> Iterator[Doubt]:
    """Doubt epochs (select = "best") that are not the best of the other folds' mean curve, of losses or of scores."""
    models = [model for model in shelf.models if "curve" in model.header]
    by_loss = shelf.receipt["config"].get("select_by") == "loss"

    def best(curve: Array) -> int:
        worth = -curve if by_loss else problem.metric.gain(curve, 0.0)
        return int(np.argmax(np.nan_to_num(worth, nan=-np.inf)))

    for model in models:
        within = [other for other in models if other.repeat == model.repeat]
        others = [other.header["curve"] for other in within if other.named != model.named]
        epoch, own = model.header["epoch"], best(np.array(model.header["curve"]))
        if epoch != best(np.mean(others, 0)):
            why = ", but of its own: it stopped itself" if epoch == own else ""
            what = f"epoch {epoch} of {model.name} is not the best of the other folds{why}"
            yield Doubt(model.named[0], what, repeat=model.repeat)


def training_tags(shelf: Shelf, problem: Problem, repeat: int) -> Iterator[Doubt]:
    """Doubt training tags that name fold k's model and are not what models blind to fold k make of their training."""
    config, frame, leaves, folds = shelf.receipt["config"], shelf.named, shelf.leaves, shelf.receipt["folds"]
    problem = replace(problem, y=problem.hard)
    frame = frame[frame["repeat"] == repeat]
    table, oof = shelf.table, np.mean([leaf.oof for leaf in leaves], 0)
    # Weights and targets need no features of the images, and no other view of a row than these.
    blank, statistics = np.zeros((len(oof), 2)), np.zeros((len(oof) + len(table.test), 0))
    tests = {k: np.stack([leaf.test(k, repeat) for leaf in (leaves[0], *leaves)]) for k in folds}
    epochs = {k: known_mean([epochs for leaf in leaves for epochs in _epochs(leaf, k, repeat)]) for k in folds}
    pairs = {k: _pairs(leaves, problem.folds, k, repeat) for k in folds} if config["strict"] else None
    seen = Seen(problem, oof, problem.y, oof[None], epochs, blank, blank, tests, {}, statistics, pairs)
    for k in folds:
        mine, outside = frame[frame["fold"] == k], problem.folds != k
        if mine["id"].duplicated().any():
            yield Doubt(k, f"a row names the model of fold {k} twice", repeat=repeat)
            continue
        found, ids = blind(seen, k, config["easy_error"], config["hard_share"]), table.ids[table.scored][outside]
        told, weight = mine.set_index("id").reindex(ids), found.weight[: len(oof)][outside]
        values = told.filter(regex=r"^t\d+$").to_numpy(float)
        same = _alike(values, found.targets[outside]) & np.isclose(told["weight"].to_numpy(float), weight, atol=CLOSE)
        suspect = (told["tag"] == SUSPECT).to_numpy()
        same &= (suspect == (weight < 0.5)) | (np.abs(weight - 0.5) < CLOSE)
        if not same.all():
            by_oof = _alike(values, suggest(problem, oof)[outside]).all()
            used = ", but what out-of-fold predictions say" if by_oof else ""
            what = f"{(~same).sum()} tags are not what models of fold {k} say{used}{_example(ids, ~same)}"
            yield Doubt(k, what, repeat=repeat)


def unchanged(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt an `lb` run that adopted nothing and yet predicts otherwise than the run below it."""
    (below, *_), folds = shelf.members, shelf.receipt["folds"]
    pairs = [(shelf.oof, below.oof), *((shelf.test(k), below.view(k)) for k in folds)]
    if not shelf.receipt.get("adopted") and not all(np.array_equal(one, other) for one, other in pairs):
        yield Doubt(None, f"nothing was adopted, and yet its predictions are not those of {below.run}")


def _epochs(leaf: Shelf, fold: int, repeat: int) -> Iterator[Array]:
    """Yield what the models of a fold saw of their training rows, N x (P + 4): see `scoring.tags.Seen`."""
    for model in leaf.models:
        if (model.named, model.repeat) == ([fold], repeat) and "halves" not in model.facts:
            if "test" in model.facts.get("unlabelled", {}):
                continue  # the model for the test rows, of which no tag is made
            seen = model.epochs.astype(np.float64)
            low = seen[:, -2] < model.facts.get("indicators", {}).get("threshold", -np.inf)
            yield np.column_stack([seen, np.where(np.isnan(seen[:, -2]), np.nan, low)])


def _pairs(leaves: list[Shelf], folds: Array, fold: int, repeat: int) -> tuple[Array, list[Array]]:
    """Return what models that saw neither fold j nor a fold say of the rows of j (N P), and of the test rows (T P)."""
    rows, tests = np.full(leaves[0].oof.shape, np.nan), []
    for j in np.unique(folds[folds != fold]).tolist():
        models = [m for leaf in leaves for m in leaf.models if (sorted((j, fold)), repeat) == (m.named, m.repeat)]
        rows[folds == j] = np.mean([model.train[folds == j] for model in models], 0)
        tests.append(np.mean([model.test for model in models], 0))
    return rows, tests


def _method(shelf: Shelf) -> str:
    """Return how a run's cuts are fitted: those of an `lb` run as of the run below it, unless it adopted a rule."""
    if shelf.receipt.get("adopted"):
        return "fixed"
    return str(shelf.receipt["config"].get("decision") or _method(shelf.members[0]))


def _allowed(shelf: Shelf, ids: Array, fold: int, repeat: int) -> Array:
    """Return the test rows (N,) that may be pseudo-labelled: all, or those that are easy to models blind to a fold."""
    if shelf.tags is None:
        return np.ones(len(ids), bool)
    tags = shelf.tags.named
    easy = tags[(tags["repeat"] == repeat) & (tags["fold"] == fold) & (tags["tag"] == "easy")]
    return np.isin(ids, easy["id"].to_numpy(str))


def _example(ids: Array, odd: Array) -> str:
    return f", for example id {str(ids[odd][0])!r}"


def _in_sample(told: Array, all_rows: Array, close: float) -> str:
    """Say so where a number is that of all rows."""
    return ", but of all rows: it was fitted in-sample" if np.allclose(told, all_rows, atol=close) else ""


def _alike(one: Array, other: Array) -> Array:
    """Return which rows are the same but for what a CSV rounds off."""
    return np.asarray(np.isclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True).all(1))
