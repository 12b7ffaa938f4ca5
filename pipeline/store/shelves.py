"""Read the shelves that a stage builds on: receipts that are checked, and the trained runs under a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import Array, read_json, read_npy
from pipeline.store.receipts import damaged
from pipeline.store.toml import read_run, read_toml

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    from pipeline.store.table import Table

PREDICTING = ("train", "ensemble", "lb")


def require_shelf(run: str, role: str) -> RunFiles:
    """Return the files of a run that is wanted as a `role`; where nothing lies on its shelf it is refused."""
    files = RunFiles(run)
    if not files.config.exists():
        try:
            read_toml(files.config)  # says so, with the nearest name
        except UserError as error:
            raise UserError(f"{role} = {run!r}: {error}") from None
    if not files.receipt.exists():
        competition, name = run.split("/")
        what = f"make {read_run(run)[0].get('stage', 'train')} COMP={competition} NAME={name}"
        raise UserError(f"{role} {run!r} has no {files.receipt}: run {what} first")
    return files


def read_shelf(run: str, role: str = "member") -> dict[str, Any]:
    """Return the receipt of a run that another builds on as its `role`; its files must be what the receipt says."""
    files = require_shelf(run, role)
    receipt: dict[str, Any] = read_json(files.receipt)
    broken = damaged(receipt)
    if broken:
        raise UserError(
            f"{role} {run!r}: {broken[0]} is not what its receipt says: delete {files.receipt} and run it again"
        )
    return receipt


def read_stage(run: str, role: str, *stages: str) -> dict[str, Any]:
    """Return the receipt of a run whose stage must be one of some."""
    receipt = read_shelf(run, role)
    if receipt["stage"] not in stages:
        raise UserError(f"{role} = {run!r} is of stage {receipt['stage']}; it must be of stage {' or '.join(stages)}")
    return receipt


def of_repeat(run: str, table: Table, repeat: int) -> Array:
    """Return the out-of-fold predictions (N P) of one repeat of a trained run."""
    folds = table.split(repeat).folds[table.scored]
    parts = {k: read_npy(RunFiles(run).fold(k, repeat).oof) for k in np.unique(folds).tolist()}
    found = np.zeros((len(folds), next(iter(parts.values())).shape[1]), np.float32)
    for k, part in parts.items():
        found[folds == k] = part
    return found


def as_out_of_fold(run: str, repeats: int, fold: int, name: str = "test") -> Array:
    """Return predictions (N P) of rows that are in no fold as rows of a fold are predicted: mean over repeats.

    Only trained runs have `repeats` of their own models: what is built on them has one prediction a fold.
    """
    shelves = [RunFiles(run).fold(fold, r) for r in range(repeats)]
    return np.asarray(np.mean([read_npy(getattr(s, name)) for s in shelves], 0, dtype=np.float64), np.float32)


def as_parent(role: str, receipt: dict[str, Any]) -> dict[str, Any]:
    """Return what a receipt says of a run that was built on."""
    return {"role": role, **{name: receipt[name] for name in ("run", "key", "level")}}


def refuse_without_pairs(wants: str, receipts: dict[str, dict[str, Any]]) -> None:
    """Refuse trained runs that have no models blind to two folds, which a setting (`wants`) asks for."""
    for leaf, receipt in receipts.items():
        if not receipt["config"]["pairs"]:
            raise UserError(f"{wants} needs models blind to two folds: set pairs = true in {RunFiles(leaf).config}")


def refuse_strangers(receipts: dict[str, dict[str, Any]], table: dict[str, Any]) -> None:
    """Refuse runs whose rows, folds or classes are not those of the first, and those of an older split."""
    first, *others = receipts
    for what, name in (
        ("fold_map", "fold map"),
        ("rows", "row ids"),
        ("test", "test set"),
        ("classes", "class order"),
    ):
        for other in others:
            if receipts[other][what] != receipts[first][what]:
                raise UserError(f"member {other!r} has another {name} than {first!r}: train both on the same folds")
    if any(receipts[first][name] != table[name] for name in ("fold_map", "test")):
        raise UserError(f"member {first!r} was made for other folds or test rows than those of today: train it again")


def refuse_seen(receipt: dict[str, Any], role: str) -> None:
    """Refuse a run that is not blind to its folds' labels where nothing else may be used."""
    for fold, level in receipt["level"].items():
        if level != "blind":
            raise UserError(
                f"{role} = {receipt['run']!r} is not blind to fold {fold} (level {level}): its models would tell "
                f'fold {fold}\'s labels to what is trained for it; use a run with select = "last" and blind parents'
            )


def leaves(run: str) -> list[str]:
    """Return the trained runs under a run, each once, in order: itself, or those below a blend or an `lb` run."""
    receipt = read_stage(run, "run", *PREDICTING)
    if receipt["stage"] == "train":
        return [run]
    below = [leaf for parent in receipt["parents"] for leaf in leaves(parent["run"])]
    return list(dict.fromkeys(below))
