"""What each artefact depends on, as one hash; a stage that finds its own hash in the receipt has nothing to do.

Fitting and predicting have separate hashes: new TTA or new test images never train again. A comment in a config
changes nothing, because the hash is of what was read from it.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from pipeline.store.artifacts import CompetitionFiles, FoldFiles, RunFiles
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, digest_json, read_json
from pipeline.store.runs import Run, load_run
from pipeline.store.shelves import leaves
from pipeline.store.toml import ROLES
from pipeline.store.train import Train
from pipeline.store.trials import Trying, runs_of


def folds_key(config: Competition, files: CompetitionFiles) -> str:
    """Return the hash of all that the table of record depends on."""
    if not files.data_receipt.exists():
        raise UserError(f"{files.data_receipt} is missing: run make data COMP={files.name}")
    committed = [digest_file(path) for path in (files.folds, files.folds_receipt) if path.exists()]
    scored = {"metric", "metric_greater", "metric_weights", "metric_per_group"}
    contract = config.model_dump(exclude={"built_in", *scored})
    # A table of masks from before it told which classes the sample asks for is not of today.
    of_today = ["scored_classes"] if config.task == "segmentation" else []
    seen = [config.folds.encoder.facts()] if config.folds.encoder else []
    return digest_json([contract, read_json(files.data_receipt)["key"], committed, *of_today, *seen])


def read_table_facts(files: CompetitionFiles) -> dict[str, Any]:
    """Return what runs depend on of the table of record: hashes of its rows, `classes`, some `scored_classes`."""
    if not files.table_receipt.exists() or not files.table.exists():
        raise UserError(f"{files.table} is missing: run make folds COMP={files.name}")
    facts: dict[str, Any] = read_json(files.table_receipt)
    return facts


def train_keys(config: Train, competition: Competition, table: dict[str, Any]) -> tuple[str, str, str]:
    """Return the hashes of the weights, of the predictions, and of the scored run."""
    built_on = {role: role_hashes(role, run, config) for role in ROLES if (run := getattr(config, role, None))}
    weights = Path(config.model.weights)
    how = competition.images.model_dump(exclude={"pattern", "train", "test"})
    parts = [[part.task, part.columns, part.weight] for part in competition.targets or []]
    contract = [competition.task, how, own_code(how), *parts]
    scored_by = metric_facts(competition) + [asked for asked in (table.get("scored_classes"),) if asked]
    by_score = config.select == "best" and config.select_by == "metric"
    chosen_by = [*scored_by, config.patches.gamma] if by_score else None
    known = [digest_file(weights) if weights.is_file() else None, own_code(config.fitting())]
    known += [config.sampling.encoder.facts()] if config.sampling.encoder else []
    rows = [table["classes"], table["fold_map"], table["scored"], table.get("extra")]
    adapted = [table["test"]] if config.semi.method != "none" else []
    fitted = digest_json([config.fitting(), known, contract, chosen_by, rows, built_on, *adapted])
    # The groups of test rows are in no hash but that of the table itself.
    groups = [table["outputs"]] if config.image.normalize == "group" else []
    how = config.predict.model_dump() | {"decouple": config.decouple.model_dump(), "gamma": config.patches.gamma}
    shown = [table["test"], table.get("holdout"), trusted(config.chosen_by) if config.chosen_by else None]
    predicted = digest_json([fitted, how, own_code(how), shown, *groups])
    return (
        fitted,
        predicted,
        digest_json([predicted, config.decision, config.pairs, config.retrieval.model_dump(), scored_by]),
    )


def trial_keys(config: Train, competition: Competition, table: dict[str, Any]) -> tuple[str, str]:
    """Return the hashes of the weights of a trial and of its score: of a run of which test rows are not predicted."""
    fitted, _, scored = train_keys(config, competition, table | {"test": None, "holdout": None})
    return fitted, scored


def trying_key(config: Trying, competition: Competition, table: dict[str, Any]) -> str:
    """Return the hash of an ablation or a search: of its settings, and of all that its trials depend on."""
    keys = [trial_keys(run, competition, table)[1] for run in runs_of(config)]
    return digest_json([config.model_dump(), keys])


def metric_facts(competition: Competition) -> list[Any]:
    """Return all that a score depends on besides rows and predictions: a metric file with its content."""
    named = (competition.metric, competition.metric_greater, competition.metric_weights, competition.metric_per_group)
    each = [[part.metric, part.share, own_code(part.metric)] for part in competition.targets or []]
    return [*named, own_code(competition.metric), *each]


def own_code(value: Any) -> list[str]:
    """Return the hashes of the user's own code that a setting names: `module:attribute`, or the path of a file."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in own_code(item)]
    if isinstance(value, str) and value.endswith(".py") and Path(value).is_file():
        return [digest_file(Path(value))]
    if not isinstance(value, str) or not re.fullmatch(r"\w+(\.\w+)*:\w+", value):
        return []
    try:
        origin = getattr(importlib.util.find_spec(value.split(":")[0]), "origin", None)
    except ImportError:
        origin = None  # `resolve` tells the user
    return [digest_file(Path(origin))] if origin and Path(origin).is_file() else []


def role_hashes(role: str, run: str, config: Train) -> dict[str, str]:
    """Return the hashes of what a training run takes from the run that plays a role in it."""
    files = RunFiles(run)
    if role == "pseudo":
        wanted = files.pseudo_files
    elif role == "tags":
        wanted = [files.difficulty_train]
    elif role == "chosen_by":
        asked = [receipt.parent for receipt in files.fold_receipts()]
        pairs = config.patches.nested == "pairs"
        wanted = [FoldFiles(model).patches for model in asked if pairs or not model.name.startswith("pair")]
    elif role == "init":
        wanted = [FoldFiles(receipt.parent).model for receipt in files.fold_receipts()]
    else:
        pairs = config.distill.nested == "pairs"
        models = [r.parent for leaf in leaves(run) for r in RunFiles(leaf).fold_receipts()]
        wanted = [FoldFiles(model).train for model in models if model.name.startswith("pair") == pairs]
    return {str(path): digest_file(path) for path in wanted if path.exists()}


def trusted(run: str) -> dict[str, str]:
    """Return the hashes of how sure the models of a run are of the patches of rows that nobody learns from."""
    models = [FoldFiles(receipt.parent) for receipt in RunFiles(run).fold_receipts()]
    wanted = [path for model in models for path in (model.test_patches, model.holdout_patches)]
    return {str(path): digest_file(path) for path in wanted if path.exists()}


def built_key(config: Run, competition: Competition, parents: dict[str, dict[str, Any]]) -> str:
    """Return the hash of a run that trains nothing: its config and what the runs it builds on wrote."""
    outputs = {parent: [receipt["key"], receipt["outputs"]] for parent, receipt in parents.items()}
    return digest_json([config.model_dump(), metric_facts(competition), outputs])


def submit_key(shelf: dict[str, Any], competition: Competition, files: CompetitionFiles) -> str:
    """Return the hash of a submission: the shelf, the sample, and the solution where there is one."""
    tables = [files.data / competition.submission.sample, files.solution]
    known = [digest_file(path) for path in tables if path.exists()]
    own = own_code(competition.metric)
    return digest_json([shelf["key"], shelf["outputs"], competition.model_dump(), own, known])


def current_key(run: str) -> str:
    """Return the hash that the receipt of a run has if the run is up to date."""
    files = RunFiles(run)
    config, competition = load_run(run), load_competition(files.competition.name)
    if isinstance(config, Train):
        return train_keys(config, competition, read_table_facts(files.competition))[2]
    if isinstance(config, Trying):
        return trying_key(config, competition, read_table_facts(files.competition))
    return built_key(config, competition, {p: read_json(RunFiles(p).receipt) for p in builds_on(config)})


def builds_on(config: Run) -> list[str]:
    """Return the run ids that a checked config builds on."""
    named = [*getattr(config, "members", []), *(getattr(config, role, None) for role in ROLES)]
    return [name for name in named if name is not None]
