"""What is proved of runs with masks: maps are those of the models and weights told, choices can be had again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from pipeline.audit.records import Doubt, Model, Shelf
from pipeline.forecast.mask_lb import Below, read_back
from pipeline.masks.maps import gathered, mean_of
from pipeline.scoring.mask_choice import from_decision
from pipeline.scoring.mask_ensemble import Blend, apart, leaf_weights
from pipeline.scoring.mask_pseudo import MaskRule
from pipeline.scoring.mask_shelf import Mixed, Scene, same_as_mean, same_rows, same_stretches, score_maps
from pipeline.scoring.mask_teacher import MaskTeacher
from pipeline.scoring.mask_variants import measure
from pipeline.scoring.metrics import metric_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import number, read_json, read_npy
from pipeline.store.table import half_of
from pipeline.tasks import task_of

# Weights fitted on another processor differ in late digits; of half floats near 1 the neighbour is 1/2048 away.
CLOSE, ROUNDED = 1e-3, 2e-3


def scene_of(shelf: Shelf, shown: dict[str, Any] | None = None) -> Scene:
    """Return the rows of a run as its maps show them, or as `shown` says."""
    metric = metric_of(shelf.competition, RunFiles(shelf.run).competition)
    task = task_of(shelf.competition, shelf.table.classes)
    return Scene.of(shelf.files, shelf.competition, shelf.table, task, metric, shown or shelf.receipt["maps"])


def whole_maps(shelf: Shelf) -> Iterator[tuple[str, str]]:
    """Yield (place, reason) where the maps of a trained run are not those of its models, in the mean over repeats."""
    table, files, scene = shelf.table, shelf.files, scene_of(shelf)
    where, parts = scene.layout(table.scored), []
    for r, split in enumerate(table.splits):
        folds = split.folds[table.scored]
        for k in np.unique(folds).tolist():
            path, rows = files.fold(k, r).oof, np.flatnonzero(folds == k)
            if len(read_npy(path)) != where.part(rows).total:
                yield str(path), f"is not of the rows of fold {k}"
                return
        parts.append({k: read_npy(files.fold(k, r).oof) for k in np.unique(folds).tolist()})
    oof = read_npy(files.oof)
    repeats = zip(parts, table.splits, strict=True)
    each = [gathered(where, flats, split.folds[table.scored]) for flats, split in repeats]
    means = (mean_of(stretches) for stretches in zip(*each, strict=True))
    right = same_stretches(oof, means, where, ROUNDED) if len(oof) == where.total else np.zeros(len(where), bool)
    wrong = np.flatnonzero(~right)
    for k in np.unique(table.folds[table.scored][wrong]).tolist():
        yield str(files.oof), f"rows of fold {k} are not the predictions of the models that never saw them"
    tests = [read_npy(files.fold(k, r).test) for r in range(len(parts)) for k in parts[0]]
    if not same_as_mean(read_npy(files.test), tests, scene.layout(table.test), ROUNDED).all():
        yield str(files.test), "is not the mean of its models' predictions"


def halves(shelf: Shelf, model: Model) -> Iterator[str]:
    """Yield what of the maps of two students put together is not of the one that did not train on a row's half."""
    scene, files, table = scene_of(shelf), model.files, shelf.table
    mine = table.scored[np.isin(table.split(model.repeat).folds[table.scored], model.named)]
    for name, rows in (("oof", mine), ("test", table.test)):
        whole, *students = (read_npy(getattr(part, name)) for part in (files, files.half(0), files.half(1)))
        half, where = half_of(table.ids[rows]), scene.layout(rows)
        same = np.stack([same_rows(student, whole, where) for student in students])
        wrong = ~same[1 - half, np.arange(len(rows))]
        if wrong.any():
            path = getattr(files, name).name
            yield f"{wrong.sum()} rows of {path} are not the predictions of the other half's student"


def labels(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt soft masks that name fold k's model and are not what the teachers' models of fold k say."""
    config, frame, ids = shelf.receipt["config"], shelf.named, shelf.table.ids[shelf.table.test]
    teacher = MaskTeacher(scene_of(shelf, shelf.members[0].receipt["maps"]), [m.files for m in shelf.members])
    quotas = config["quota"] if isinstance(config["quota"], list) else [config["quota"]]
    quota = quotas[min(len(shelf.receipt["rounds"]) - 1, len(quotas) - 1)]
    rule = MaskRule(config["threshold"], quota, config["empties"], config["stratify"])
    for r, k in product(range(len(shelf.table.splits)), shelf.receipt["folds"]):
        named = frame[(frame["repeat"] == r) & (frame["fold"] == k)]
        kept, sure, _ = teacher.chosen(rule, k, r)
        if not np.array_equal(named["id"].to_numpy(str), ids[kept]):
            yield Doubt(k, f"other images are chosen than models of fold {k} choose", repeat=r)
            continue
        weight = sure[kept] if config["weight"] == "confidence" else 1.0
        if not np.allclose(named["weight"].to_numpy(float), weight, rtol=1e-5):
            yield Doubt(k, f"labels of fold {k} weigh otherwise than how sure its models are", repeat=r)
        flat, where = read_npy(shelf.files.pseudo_maps(r, k)), teacher.layout(np.flatnonzero(kept))
        said = teacher.said(k, r, np.flatnonzero(kept), config["targets"], config["temperature"])
        if len(flat) != where.total:
            yield Doubt(k, f"{shelf.files.pseudo_maps(r, k)} is not of the images that name fold {k}", repeat=r)
            continue
        ends = zip(where.starts[:-1].tolist(), where.starts[1:].tolist(), strict=True)
        odd = [np.abs(flat[a:b] - part).max() > ROUNDED for (a, b), part in zip(ends, said, strict=True)]
        if any(odd):
            example = ids[kept][int(np.argmax(odd))]
            what = f"{sum(odd)} soft masks are not what models of fold {k} say, for example id {str(example)!r}"
            yield Doubt(k, what, repeat=r)


def blend(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt weights of a fold that are not fitted without it, and maps that are not mixed with these weights."""
    scene, config, receipt = scene_of(shelf), shelf.receipt["config"], shelf.receipt
    hand = None if config["weights"] is None else np.array(config["weights"])
    repeats = {member.run: member.receipt.get("repeats", 1) for member in shelf.members}
    solver = Blend(scene, repeats, config["method"], hand, config["seed"])
    again = solver.fit()
    told = {k: np.array(receipt["weights_by_fold"][str(k)]) for k in receipt["folds"]}
    for k, weights in told.items():
        if not np.allclose(weights, again.by_fold[k], atol=CLOSE):
            used = ", but of all rows: it was fitted in-sample" if np.allclose(weights, again.deployed) else ""
            yield Doubt(k, f"the weights of fold {k} are not those of a fit without it{used}")
    folds, maps = scene.problem.folds, scene.maps(shelf.files.oof, scene.table.scored)
    mixed = Mixed(solver.maps, np.stack([told[k] for k in folds.tolist()]))
    odd = {int(folds[i]) for i in range(len(maps)) if np.abs(maps[i] - mixed[i]).max(initial=0.0) > ROUNDED}
    for k in sorted(odd):
        yield Doubt(k, f"the rows of fold {k} are not blended with the weights of fold {k}")
    yield from decisions(shelf)


def post_processed(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt maps that are not the masks decided as told, or where nothing was adopted those of the run below."""
    below, files, adopted = shelf.members[0], shelf.files, shelf.receipt["adopted"]
    told = read_json(files.postprocess)
    leaves = {leaf.run: leaf.receipt for leaf in shelf.leaves}
    links = read_npy(shelf.files.links) if shelf.receipt["config"].get("mosaic") == "fill" else None
    source = Below(scene_of(below), below.files, below.receipt, leaves, links)
    for name, rows in (("oof", shelf.table.scored), ("test", shelf.table.test)):
        if adopted:
            wrong, what = read_back(source, scene_of(shelf), files, name, told[name]), "not decided as told"
        else:
            one, other = (read_npy(getattr(shelves, name)) for shelves in (files, below.files))
            wrong = np.flatnonzero(~same_rows(one, other, source.scene.layout(rows)))
            what = f"not those of {below.run}, and yet nothing was adopted"
        if len(wrong):
            example = str(shelf.table.ids[rows[wrong[0]]])
            yield Doubt(None, f"{len(wrong)} masks of {name} are {what}, for example id {example!r}")
    yield from decisions(shelf)


def refitted(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt test maps that are not those of the models of all rows, by the weights of the run they are of."""
    (run,) = (parent["run"] for parent in shelf.parents)
    made, tests = {model.files.folder.name: model.files.test for model in shelf.models}, []
    where, weights = scene_of(shelf).layout(shelf.table.test), leaf_weights(run)
    for seed in shelf.receipt["folds"]:
        flats = [read_npy(made[f"all-{leaf.split('/')[-1]}-{seed}"]) for leaf in weights]
        tests.append(read_npy(shelf.files.fold(seed).test))
        if not same_as_mean(tests[-1], flats, where, ROUNDED, list(weights.values())).all():
            yield Doubt(None, f"the test predictions of seed {seed} are not those of its models", rows=False)
    if not same_as_mean(read_npy(shelf.files.test), tests, where, ROUNDED).all():
        yield Doubt(None, "the test predictions are not the mean over the seeds", rows=False)
    if shelf.receipt["decision"] != shelf.members[0].receipt["decision"]:
        yield Doubt(None, f"its masks are not decided as those of {run}", rows=False)


def decisions(shelf: Shelf) -> Iterator[Doubt]:
    """Doubt settings of a fold that are not chosen without it, and a score that is not that of the chosen settings."""
    scene, told = scene_of(shelf), shelf.receipt["decision"]
    maps = scene.maps(shelf.files.oof, scene.table.scored)
    method = shelf.receipt["config"].get("decision", "fixed")
    # An `lb` run that changed nothing is decided as the run below it.
    made = shelf.members[0].receipt if shelf.stage == "lb" else shelf.receipt
    found, again = score_maps(scene, maps, method, apart(scene, made)) if method != "fixed" else ({}, told)
    for k in shelf.receipt["folds"]:
        if from_decision(told, k) != from_decision(again, k):
            alike = from_decision(told, k) == from_decision(again)
            used = ", but of all rows: it was chosen in-sample" if alike else ""
            yield Doubt(k, f"the masks of fold {k} are not decided by a choice without it{used}", rows=False)
    score = found.get("score", np.nan)
    if method == "fixed":
        stats = measure(maps, scene.truth, scene.table.scored, [from_decision(told)], scene.problem.mask_metric)
        score = scene.problem.judge(stats[:, 0])
    published = number(shelf.receipt["metrics"]["score"])
    if not np.isclose(score, published, atol=1e-6, equal_nan=True):
        yield Doubt(None, f"its score {published:.6f} is not what its maps give, {score:.6f}", rows=False)
