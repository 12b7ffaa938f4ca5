"""Prove the level of a run: walk its receipts to their roots, check every file, every row and every fitted number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audit.lineage import Fold, Lineage, Seen
from pipeline.audit.proofs import disorder
from pipeline.audit.records import Refit, Shelf
from pipeline.store.errors import UserError
from pipeline.store.keys import read_table_facts
from pipeline.store.receipts import LEVELS
from pipeline.store.table import HOLDOUT
from pipeline.store.toml import ROLES


@dataclass(frozen=True)
class Node:
    """A run in the tree: the role it plays, and the runs above it; `again` where it was told before."""

    role: str
    shelf: Shelf
    above: tuple[str, ...]
    again: bool

    @property
    def chain(self) -> tuple[str, ...]:
        """Return the chain from the audited run down to this one."""
        return (*self.above, self.title)

    @property
    def title(self) -> str:
        """Return its role and name."""
        return f"{self.role} {self.shelf.run}".strip()


@dataclass(frozen=True)
class Finding:
    """What is wrong: the chain of runs and models down to the file, and the reason, last."""

    chain: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' -> '.join(self.chain[:-1])}: {self.chain[-1]}"


@dataclass(frozen=True)
class Report:
    """The lineage tree, one line a run; what is wrong; what nobody can audit; how much was read."""

    tree: list[str]
    findings: list[Finding]
    outside: list[str]
    counts: dict[str, int] = field(default_factory=dict)


def audit(run: str, refit: Refit) -> Report:
    """Audit a run and all that it rests on; `refit` fits again what was fitted (`pipeline.audit.refit.refit`)."""
    lineage = Lineage(refit)
    nodes = list(walk(lineage, run))
    if (stage := nodes[0].shelf.receipt["stage"]) in ("ablate", "tune"):
        raise UserError(f"{run} is of stage {stage}: it predicts nothing that could be audited or submitted")
    once = [node for node in nodes if not node.again]
    found = [Finding((*node.chain, *wrong)) for node in nodes for wrong in papers(lineage, node)]
    sound = not found
    if sound:
        # Without the right files nothing can be proved.
        found = [Finding((*node.above, *chain)) for node in once for chain in proofs(lineage, node)]
    # A run is met on many ways: findings are told apart by their last links and the reason, less what is demanded.
    unique = {(*f.chain[-3:-1], f.chain[-1].split(" (level")[0]): f for f in reversed(found)}
    findings = list(unique.values())[::-1]
    models = [model for node in once for model in node.shelf.models]
    tree = [line(lineage, node, sound) for node in nodes]
    outside = list(dict.fromkeys(what for node in once for what in outside_knowledge(node.shelf)))
    counts = {"runs": len(once), "models": len(models), "files": sum(len(files_of(node.shelf)) for node in once)}
    return Report(tree, findings, outside, counts)


def walk(lineage: Lineage, run: str) -> Iterator[Node]:
    """Yield a run and all it rests on, depth first; what lies under a run is told once."""
    told: set[str] = set()

    def visit(role: str, name: str, above: tuple[str, ...], path: tuple[str, ...]) -> Iterator[Node]:
        if name in path:
            raise UserError(f"receipts form a cycle: {' -> '.join((*path, name))}")
        shelf = lineage.shelf(name)
        node = Node(role, shelf, above, name in told)
        yield node
        if not node.again:
            told.add(name)
            for parent in shelf.parents:
                yield from visit(parent["role"], parent["run"], node.chain, (*path, name))

    return visit("", run, (), ())


def files_of(shelf: Shelf) -> dict[str, str]:
    """Return every file of a shelf with the hash that its receipts tell."""
    known: dict[str, str] = dict(shelf.receipt["outputs"])
    for model in shelf.models:
        known |= model.facts["outputs"]
    return known


def papers(lineage: Lineage, node: Node) -> Iterator[tuple[str, ...]]:
    """Yield the files, parents, folds, rows and classes of a run that are not what its receipt says."""
    shelf, receipt = node.shelf, node.shelf.receipt
    yield from () if node.again else broken(lineage, shelf)
    facts = read_table_facts(shelf.files.competition)
    today = {"fold_map": shelf.table.fold_map(), "rows": facts["scored"], "test": facts["test"]}
    names = {"fold_map": "fold map", "rows": "row ids", "test": "test set", "classes": "class order"}
    for what, now in (today | {"classes": facts["classes"]}).items():
        if receipt[what] != now and not (what == "test" and node.role == "init"):
            yield str(shelf.files.receipt), f"was made for another {names[what]} than that of today"
    for parent in shelf.parents:
        if parent.get("key", (key := lineage.shelf(parent["run"]).receipt["key"])) != key:
            title = f"{parent['role']} {parent['run']}"
            yield str(shelf.files.receipt), f"was built on another {title} than lies there now: run make again"
    named = {(role, run) for role in ROLES if (run := receipt["config"].get(role)) and shelf.stage == "train"}
    named |= {("member", run) for run in receipt["config"].get("members", [])}
    for role, run in sorted(named - {(p["role"], p["run"]) for p in shelf.parents}):
        yield str(shelf.files.receipt), f"its config names {role} = {run!r}, of which the receipt says nothing"


def broken(lineage: Lineage, shelf: Shelf) -> Iterator[tuple[str, ...]]:
    """Yield the files of a shelf that are not those of its receipts, and models without rows to prove anything from."""
    known: list[tuple[tuple[str, ...], str, str]]
    known = [((path,), path, hashed) for path, hashed in files_of(shelf).items()]
    for model in shelf.models:
        for parent in model.facts.get("parents", []):
            title = f"{parent['role']} {parent['run']}"
            known += [((model.name, title, path), path, hashed) for path, hashed in parent.get("files", {}).items()]
    wrong = {links: lineage.hash(path) for links, path, hashed in known if lineage.hash(path) != hashed}
    for links, now in wrong.items():
        yield *links, "is missing" if now is None else "is not what its receipt says"
    for model in shelf.models if not wrong else ():
        if "halves" not in model.facts and str(model.files.rows) not in model.facts["outputs"]:
            yield model.name, f"has no {model.files.rows.name}: nothing proves what it trained on; train it again"
        elif "halves" not in model.facts and not np.isin(model.rows, np.arange(len(shelf.table.ids))).all():
            yield model.name, f"{model.files.rows.name} holds positions that are not in the table"


def proofs(lineage: Lineage, node: Node) -> Iterator[tuple[str, ...]]:
    """Yield the chains to whatever is less than its receipt, its role or honesty demands."""
    shelf = node.shelf
    competition = shelf.files.competition.name
    repeats = range(len(shelf.table.splits) if shelf.stage in ("pseudo", "tag") else 1)
    codes = np.unique(shelf.table.folds[shelf.table.scored]).tolist()
    folds = [Fold(competition, k, r) for r in repeats for k in codes]
    holdout = Fold(competition, HOLDOUT)
    for fold in folds if shelf.stage != "full" else ():  # it predicts no row that is scored
        claimed = "blind" if shelf.stage == "pseudo" else shelf.receipt["level"].get(str(fold.code), "blind")
        yield from below(node.title, lineage.run_saw(shelf.run, fold), claimed)
    for model in shelf.models:
        for code in model.facts.get("held_out", []):
            fold = Fold(competition, code, model.repeat)
            yield from below(node.title, lineage.model_saw(model, fold), model.facts["level"])
            for parent in model.facts.get("parents", []) if "halves" not in model.facts else ():
                seen = lineage.parent_saw(model, parent, fold).through(model.name)
                yield from below(node.title, seen, "blind")
        yield from below(node.title, lineage.model_saw(model, holdout), "crossfit")
    for doubt in lineage.doubts(shelf.run):
        yield node.title, doubt.reason
    for where, reason in disorder(shelf, {p["role"]: lineage.shelf(p["run"]) for p in shelf.parents}):
        yield node.title, where, reason


def below(title: str, seen: Seen, wanted: str) -> Iterator[tuple[str, ...]]:
    """Yield the chain of what was seen if that is less than what is wanted; `saw` is never good enough."""
    wanted = "crossfit" if wanted == "saw" else wanted
    if LEVELS.index(seen.level) > LEVELS.index(wanted):
        *links, reason = seen.chain
        yield title, *links, f"{reason} (level {seen.level}, must be {wanted})"


def line(lineage: Lineage, node: Node, sound: bool) -> str:
    """Return a run as a line of the tree: role, run, stage, proved level, models."""
    shelf = node.shelf
    text = f"{'  ' * len(node.above)}{node.title}  {shelf.stage}"
    if node.again:
        return f"{text}  (see above)"
    if shelf.stage == "full":
        text += "  deployed: trained on all rows, its score is inherited"
    elif sound:
        codes = [int(k) for k in np.unique(shelf.table.folds[shelf.table.scored])]
        levels = {k: lineage.run_saw(shelf.run, Fold(shelf.files.competition.name, k)).level for k in codes}
        parts = {level: [str(k) for k in codes if levels[k] == level] for level in LEVELS}
        told = [f"{level} to fold{'s' * (len(ks) > 1)} {','.join(ks)}" for level, ks in parts.items() if ks]
        text += f"  {'; '.join(told) if len(told) > 1 else levels[codes[0]]}"
    trained = [m.facts["trained_on"]["rows"] for m in shelf.models if "trained_on" in m.facts]
    if trained:
        most = f"-{max(trained)}" if max(trained) > min(trained) else ""
        text += f"  {len(trained)} models, each trained on {min(trained)}{most} rows"
    if shelf.stage == "train" and any({"adapted", "unlabelled"} & set(model.facts) for model in shelf.models):
        text += "; adapted to images of its own fold for those, of test for that, without their labels"
    return text


def outside_knowledge(shelf: Shelf) -> Iterator[str]:
    """Yield what a run rests on that has no receipt: weights from elsewhere, the user's own code."""
    config = shelf.receipt["config"]
    weights = config.get("model", {}).get("weights", "none")
    if weights != "none":
        name = config["model"]["name"]
        yield f"{shelf.run}: {weights} weights of {name}" if weights == "pretrained" else f"{shelf.run}: {weights}"
    for name in own_names([config, shelf.competition.metric]):
        yield f"{shelf.run}: own code {name}"


def own_names(value: Any) -> list[str]:
    """Return the settings, however deep, that name a user's own code: `module:attribute`, or a file."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [found for item in inner for found in own_names(item)]
    own = isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)*:\w+|.*\.py", value)
    return [value] if own else []
