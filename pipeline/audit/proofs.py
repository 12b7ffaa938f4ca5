"""Whether the files of a shelf agree with each other: rows with receipts, halves with the whole, folds with the run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.audit.maps import halves as mask_halves
from pipeline.audit.maps import whole_maps
from pipeline.audit.records import Model, Shelf
from pipeline.store.files import Array, digest, read_npy
from pipeline.store.shelves import of_repeat
from pipeline.store.table import HOLDOUT, TEST, UNLABELLED, Table, half_of

Wrong = Iterator[tuple[str, str]]


def disorder(shelf: Shelf, parents: dict[str, Shelf]) -> Wrong:
    """Yield (place, reason) for all in a shelf that contradicts itself; `parents` by role."""
    if shelf.stage == "train":
        yield from _whole(shelf)
        yield from _copies(shelf)
        for model in shelf.models:
            table, joined = shelf.table.split(model.repeat), "halves" in model.facts
            check = _halves(model, table) if joined else _rows(model, table, parents)
            if joined and "maps" in shelf.receipt:
                check = mask_halves(shelf, model)
            for reason in (*_held_out(model, table), *check):
                yield model.name, reason
    if shelf.stage == "full":
        yield from _all(shelf)
    told = str(shelf.files.difficulty_train) in shelf.receipt["outputs"]
    if shelf.stage == "pseudo" or (shelf.stage == "tag" and told):
        yield from _named(shelf)
    yield from _fits(shelf)


def _whole(shelf: Shelf) -> Wrong:
    """Compare the run's predictions with those of its models."""
    table, files = shelf.table, shelf.files
    folds = table.repeats[table.scored]
    codes, repeats = [int(k) for k in np.unique(folds[:, 0])], range(folds.shape[1])
    wanted = {(r, k) for r in repeats for k in codes}
    if shelf.receipt["folds"] != codes or {(m.repeat, *m.named) for m in shelf.models if len(m.named) == 1} != wanted:
        more = f" in each of {len(repeats)} repeats" if len(repeats) > 1 else ""
        yield str(files.receipt), f"has not one model for each of the folds {codes}{more}"
        return
    if "maps" in shelf.receipt:
        yield from whole_maps(shelf)
        return
    for r, k in sorted(wanted):
        if len(read_npy(path := files.fold(k, r).oof)) != (folds[:, r] == k).sum():
            yield str(path), f"is not of the rows of fold {k}"
            return
    oof = shelf.oof
    each = np.stack([of_repeat(shelf.run, table, r) for r in repeats])
    same = (each.mean(0, dtype=np.float64).astype(np.float32) == oof).all(1)
    for k in codes:
        if not same[folds[:, 0] == k].all():
            whose = f"model {k}" if len(repeats) == 1 else "the models of all repeats, in the mean"
            yield str(files.oof), f"rows of fold {k} are not the predictions of {whose}, which never saw them"
    mean = np.mean([shelf.test(k, r) for r, k in sorted(wanted)], 0, dtype=np.float64)
    if not np.allclose(mean, read_npy(files.test), rtol=1e-5, atol=1e-6):
        yield str(files.test), "is not the mean of its models' predictions"


def _all(shelf: Shelf) -> Wrong:
    """Check that models of all rows trained on what no holdout bars, and that nothing claims a score for them."""
    wanted = np.sort(shelf.table.labelled[shelf.table.foreign(())])
    for model in shelf.models:
        if len(stray := np.setdiff1d(model.rows, wanted)):
            yield model.name, f"trained on {len(stray)} rows that are not labelled, or of the holdout"
    if shelf.receipt["metrics"].get("validated", True):
        yield str(shelf.files.receipt), "claims a score of its own, which models of all rows cannot have"


def _copies(shelf: Shelf) -> Wrong:
    """Find weights that stand for two models which left out different folds."""
    first: dict[str, Model] = {}
    for model in shelf.models:
        known = model.facts["outputs"].get(str(model.files.model))
        other = first.setdefault(known, model) if known else model
        if (other.repeat, other.named) != (model.repeat, model.named):
            yield str(model.files.model), f"is a copy of {other.files.model}, which left out other folds"


def _held_out(model: Model, table: Table) -> Iterator[str]:
    """Check which folds a model left out, and its two predictions of their rows; `table` is of its repeat."""
    held_out, files = model.facts.get("held_out", []), model.files
    if model.repeat != (told := model.facts.get("repeat", 0)):
        yield f"its folder is of repeat {model.repeat}, its receipt says {told}"
    if model.named != held_out:
        yield f"its folder is of folds {model.named}, its receipt says it held out {held_out}"
    own = np.isin(table.folds[table.scored], held_out)
    # Runs with masks keep no predictions of the rows that they trained on.
    if files.train.exists() and not np.array_equal(model.train[own], read_npy(files.oof)):
        yield f"{files.train.name} and {files.oof.name} predict its own rows differently"


def _rows(model: Model, table: Table, parents: dict[str, Shelf]) -> Iterator[str]:
    """Check the rows that a model trained on against its receipt, the fold codes, its pseudo-labels and its log."""
    files, facts = model.files, model.facts
    rows, told = model.rows, facts["trained_on"]
    if told != {"rows": len(rows), "ids": digest(*table.ids[rows])}:
        yield f"{files.rows.name} holds other rows than the receipt says it trained on"
    yield from _pseudo_rows(model, table, parents.get("pseudo"))
    yield from _adapted(model, table)
    seen = table.scored[np.isfinite(model.epochs[:, 0])] if files.epochs.exists() else rows
    if len(stray := np.setdiff1d(seen, rows)):
        yield f"{files.epochs.name} shows that it trained on {len(stray)} rows that {files.rows.name} lacks"
    if model.header.get("key", facts["fit_hash"]) != facts["fit_hash"]:
        yield f"{files.model.name} is of another fit than the receipt"


def _adapted(model: Model, table: Table) -> Iterator[str]:
    """Check that a model looked at images of its own folds to predict them, and at the test set's for that.

    Those that are in no table at all it may learn from, too.
    """
    wanted = {"fold": np.isin(table.folds, model.named), "test": table.folds == TEST}
    for role, free in (("adapted", []), ("unlabelled", table.ids[table.folds == UNLABELLED])):
        for name, told in model.facts.get(role, {}).items():
            if told != digest(*table.ids[wanted[name]], *free):
                yield f"was adapted, for what it predicts of the {name}, to other images"
    whole = model.facts.get("for_test")
    if whole and not np.array_equal(read_npy(model.files.test), read_npy(model.files.for_test.test)):
        yield f"{model.files.test.name} is not what the model says that was adapted to the test images"


def _pseudo_rows(model: Model, table: Table, pseudo: Shelf | None) -> Iterator[str]:
    """Check that the test rows a model trained on are those whose pseudo-labels name it, and not those it predicts."""
    half, (fold, *_) = model.facts.get("half"), model.named
    rows = model.rows[np.isin(table.folds[model.rows], (TEST, UNLABELLED))]
    ids, wanted = table.ids[rows], np.array([], str)
    if pseudo is not None:
        frame = pseudo.named
        mine = (frame["repeat"] == model.repeat) & (frame["fold"] == fold)
        mine &= frame["half"] == (-1 if half is None else half)
        wanted = frame["id"][mine].to_numpy(str)
    if len(stray := np.setdiff1d(ids, wanted)):
        yield f"trained on {len(stray)} test rows that no pseudo-label gives it, for example id {str(stray[0])!r}"
    if len(lacking := np.setdiff1d(wanted, ids)):
        yield f"did not train on {len(lacking)} rows whose pseudo-labels name it, for example id {str(lacking[0])!r}"
    if half is not None and len(own := ids[half_of(ids) != half]):
        yield f"trained on pseudo-labels of {len(own)} rows that it predicts, for example id {str(own[0])!r}"


def _halves(model: Model, table: Table) -> Iterator[str]:
    """Check that a row of either half was predicted by the student of the other half."""
    files = model.files
    scored, test = half_of(table.ids[table.scored]), half_of(table.ids[table.test])
    own = np.isin(table.folds[table.scored], model.named)
    for name, half in (("oof", scored[own]), ("test", test), ("train", scored), ("spread", np.r_[scored, test])):
        first, second, whole = (read_npy(getattr(shelf, name)) for shelf in (files.half(0), files.half(1), files))
        chosen = (half == 1).reshape(-1, *[1] * (first.ndim - 1))
        wrong = ~_same(np.where(chosen, first, second), whole)
        if wrong.any():
            name = getattr(files, name).name
            yield f"{wrong.sum()} rows of {name} are not the predictions of the other half's student"


def _same(one: Array, other: Array) -> Array:
    """Return which rows of two arrays are equal, NaN for NaN."""
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.asarray(equal.reshape(len(equal), -1).all(1))


def _named(shelf: Shelf) -> Wrong:
    """Check which rows name which model."""
    frame, table, files = shelf.named, shelf.table, shelf.files
    path = files.pseudo if shelf.stage == "pseudo" else files.difficulty_train
    if not (known := frame["repeat"].isin(range(len(table.splits)))).all():
        yield str(path), f"names models of repeats that are not there, for example {frame['repeat'][~known].iloc[0]}"
        return
    rows, repeat = pd.Index(table.ids).get_indexer(pd.Index(frame["id"])), frame["repeat"].to_numpy(int)
    code = np.where(rows >= 0, table.repeats[rows, repeat], -99)
    if (code == HOLDOUT).any():
        yield str(path), f"names {(code == HOLDOUT).sum()} rows of the holdout"
    if shelf.stage == "pseudo":
        if not np.isin(code, (TEST, UNLABELLED, HOLDOUT)).all():
            yield str(path), "labels rows that are no test rows"
        half = frame["half"].to_numpy(int)
        if len(own := np.flatnonzero((half >= 0) & (half != half_of(frame["id"].to_numpy(str))))):
            yield str(path), f"{len(own)} rows are of another half than their ids: their own students predict them"
    elif (own := (code >= 0) & (code == frame["fold"].to_numpy(int))).any():
        yield str(path), f"tags {own.sum()} rows for the very model that never trains on them: tags of OOF predictions"
    if shelf.receipt.get("source") == "oof":
        yield str(path), "was made from out-of-fold predictions, whose models trained on the other folds' labels"


def _fits(shelf: Shelf) -> Wrong:
    """Check that whatever was fitted for a fold was fitted on the rows of all other folds."""
    table = shelf.table
    ids, folds = table.ids[table.scored], table.folds[table.scored]
    for name, by_fold in shelf.receipt.get("fits", {}).items():
        for k, fitted in by_fold.items():
            if fitted != digest(*ids[folds != int(k)]):
                yield str(shelf.files.receipt), f"the {name} of fold {k} was not fitted on the other folds' rows"
