"""The register of techniques says what is true: of switches, stages, proofs, and of the page that is made of it."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib

import pytest
import timm
from house import ROOT

from pipeline.images.augment import RECIPES
from pipeline.masks.metrics import MASK_METRICS
from pipeline.nets import losses, mask_losses
from pipeline.nets.mask_nets import OWN, PUBLISHED
from pipeline.nets.models import MODELS
from pipeline.scoring.metrics import METRICS
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.register import HEAD, Technique, proofs, read_register, table
from pipeline.store.runs import STAGES
from pipeline.store.toml import merge
from pipeline.training.optim import OPTIMIZERS, SCHEDULES
from pipeline.training.predict import TTA

REGISTER = read_register(ROOT / "techniques.toml")
ROWS = [
    f"{room}{n}" for room, last in zip("ABCDEFL", (16, 15, 18, 6, 12, 6, 3), strict=True) for n in range(1, last + 1)
]
CORE = "A1 A3 A4 A5 A6 A7 A8 A11 A14 A15 A16 B1 B4 B6 B7 B10 B12 C1 C2 C3 C4 C5 C10 C11 C12 C13 C14 C15 C17 D1 D3 D6 "
CORE += "E1 E2 E3 E12 F1 F4 L1 L2 L3"
EXPECTED = "A9 A10 A12 B2 B5 B8 B9 B11 C6 C16 D2 D5 F2"
# Of a page that is not written yet.
REPORT = {"A5", "E3", "F1", "L2"}

CONTRACT = {"task": "multiclass", "metric": "accuracy", "id": "id", "target": "label"}
BASE = {"contract": CONTRACT, "train": {}, "ensemble": {"members": ["a"]}, "full": {"run": "a"}}
BASE |= {stage: {"run": "a"} for stage in ("pseudo", "tag", "lb")}
BASE |= {"ablate": {"base": {}, "variants": {"a": {}}}, "tune": {"base": {}, "search": {"seed": [1]}}}
LOSSES = losses.EXCLUSIVE | losses.INDEPENDENT | losses.REAL
MASK_LOSSES = mask_losses.EXCLUSIVE | mask_losses.INDEPENDENT
# What a schema cannot know: the names in plug tables.
NAMES = {
    "model.name": {*MODELS, *PUBLISHED, *OWN, *timm.list_models()},
    "model.encoder": {*timm.list_models()},
    "loss.name": LOSSES,
    "loss.terms": MASK_LOSSES,
    "loss.then.terms": MASK_LOSSES,
    "optim.name": OPTIMIZERS,
    "optim.schedule": SCHEDULES,
    "augment.recipe": RECIPES,
    "predict.tta": TTA,
    "predict.hard_tta": TTA,
    "metric": {*METRICS, *MASK_METRICS},
}
SWITCHES = [(row, switch) for row, technique in REGISTER.items() for switch in technique.switch]


def settings_of(switch):
    """The config that a switch stands in, and what it says there."""
    where, _, text = switch.partition(": ")
    said = tomllib.loads(f"said = {text}" if text.startswith("{") else text)
    return where, said.get("said", said)


def flat(settings, before=""):
    for key, value in settings.items():
        yield before + key, value
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")


@functools.cache
def functions(path):
    """The tests of a file, and those that carry the mark of heavy proofs."""
    found, heavy = set(), set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
            if any("mark.proof" in ast.unparse(decorator) for decorator in node.decorator_list):
                heavy.add(node.name)
    return found, heavy


def test_every_row_of_the_ledger_stands_there_once_and_in_order():
    assert list(REGISTER) == ROWS  # twice would be no TOML
    assert [row for row, technique in REGISTER.items() if technique.priority == "core"] == CORE.split()


@pytest.mark.parametrize("row", [*CORE.split(), *EXPECTED.split()])
def test_what_is_promised_works_or_is_planned(row):
    technique = REGISTER[row]
    assert technique.status == "works" or technique.planned or (row in REPORT and technique.status == "partial")


@pytest.mark.parametrize("row, switch", SWITCHES)
def test_a_switch_is_in_the_schema(row, switch):
    where, said = settings_of(switch) if not switch.startswith("make: ") else ("make", {})
    if where == "make":
        name = switch.removeprefix("make: ").partition("=")[0]
        assert name in re.search(r"foreach name,([A-Z ]+),", (ROOT / "Makefile").read_text()).group(1).split()
        return
    schema = Competition if where == "contract" else STAGES[where]
    stage = {} if where == "contract" else {"stage": where}
    schema.model_validate(merge({**BASE[where], **stage}, said))
    for key, value in flat(said):
        if key in NAMES:
            assert set(value if isinstance(value, dict) else [value]) <= set(NAMES[key]), f"{row}: {key} = {value}"


@pytest.mark.parametrize("wrong", ["train: optim.lrr = 1.0", 'contract: task = "detection"', "lb: capacity.each = 0"])
def test_a_switch_that_is_not_there_is_found(wrong):
    where, said = settings_of(wrong)
    with pytest.raises(ValueError, match="validation error"):
        (Competition if where == "contract" else STAGES[where]).model_validate(merge(BASE[where], said))


def test_every_stage_is_a_make_target():
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    for row, technique in REGISTER.items():
        assert set(technique.stage) <= targets, row


@pytest.mark.parametrize("proof", proofs(REGISTER))
def test_a_proof_is_collected(proof):
    path, _, name = proof.partition("::")
    assert re.fullmatch(r"tests/(\w+/)*test_\w+\.py", path)
    assert name.partition("[")[0] in functions(path)[0]


def test_what_make_test_leaves_out_is_a_proof_that_make_proofs_runs():
    """A test that carries the mark and that no technique names would be run by nobody."""
    known = {proof.partition("[")[0] for proof in proofs(REGISTER)}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = str(path.relative_to(ROOT))
        assert "pytestmark = pytest.mark.proof" not in path.read_text() or path.name == "test_register.py"
        assert {f"{name}::{test}" for test in functions(name)[1]} <= known


def test_the_page_is_what_is_written_from_the_register():
    """`python -m pipeline.store.register > docs/TECHNIQUES.md`."""
    assert (ROOT / "docs/TECHNIQUES.md").read_text() == table(REGISTER)


def test_make_proofs_is_given_every_proof_or_nothing(tmp_path):
    """An empty list would have pytest run the whole suite."""
    command = [sys.executable, "-m", "pipeline.store.register", "proofs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == proofs(REGISTER)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert failed.returncode == 2
    assert not failed.stdout
    assert len(failed.stderr.splitlines()) == 1


def technique(**changes):
    given = {"name": "n", "priority": "core", "stage": ["train"], "proof": ["tests/test_a.py::test_b"]}
    return Technique(**{**given, "status": "works", **changes})


def test_the_page_tells_everything():
    effect = {"of": "gain", "effect": -0.0163, "se": 0.001, "n": 1200, "where": "LOG.md"}
    page = table(
        {"A1": technique(switch=["train: pairs = true"], measured=[effect]), "B2": technique(priority="extra")}
    )
    assert page.startswith(HEAD)
    assert "| core | 1 | 0 | 0 |" in page
    assert (
        "| A1 | n | **works** | `train: pairs = true` | train | gain: **-0.0163** +- 0.001 (n = 1,200; LOG.md) |"
        in page
    )
    assert "| B2 | n | **works** | always on | train |  | `test_a.py::test_b` |" in page


@pytest.mark.parametrize("changes, said", [
    ({"status": "partial"}, "needs a reason"),
    ({"status": "left out", "reason": "r"}, "has no switch"),
    ({"proof": []}, "needs a stage and a proof"),
    ({"stage": []}, "needs a stage and a proof"),
])  # fmt: skip
def test_a_row_that_does_not_add_up(changes, said):
    with pytest.raises(ValueError, match=said):
        technique(**changes)


def test_a_wrong_key_is_one_line(tmp_path):
    path = tmp_path / "techniques.toml"
    path.write_text('[A1]\nname = "n"\nprioriti = "core"\nstatus = "left out"\nreason = "r"\n')
    with pytest.raises(UserError, match=r"\[A1\]"):
        read_register(path)


def test_planned_is_what_is_still_to_come():
    assert technique(status="partial", reason="planned: more").planned
    assert not technique(status="partial", reason="extra: none").planned
    assert not technique(reason="planned: more").planned
