"""The house rules that can be read off the code."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from house import ROOT

FILES = sorted((ROOT / "pipeline").rglob("*.py"))
# A room may import itself and what stands to the right of it.
ORDER = [
    "stages",
    "trials",
    "preflight",
    "launch",
    "look",
    "competitions",
    "audit",
    "difficulty",
    "forecast",
    "training",
]
ORDER += ["nets", "images", "scoring", "masks", "tasks", "store"]
HEAVY = {"torch", "timm", "albumentations", "torchvision"}


def room(path):
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


def imports(path, top_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "pipeline" or node.module.count(".") == 1:
                yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path):
    mine = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "pipeline" or len(parts) == 1 or mine == "__init__":
            continue
        assert ORDER.index(parts[1]) >= ORDER.index(mine), f"{mine} imports {name}"
        if mine == "stages" and parts[1] == "stages":
            pytest.fail(f"a stage imports a stage: {name}")
        if mine in ("look", "competitions") and parts[1] in ("training", "nets"):
            pytest.fail(f"competitions import training: {name}")


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if room(p) not in ("stages", "preflight", "launch", "training", "nets", "images", "__init__")],
    ids=str,
)
def test_light_rooms_import_nothing_heavy(path):
    assert not HEAVY & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("name", [p.stem for p in (ROOT / "pipeline/stages").glob("[a-z]*.py")])
def test_stages_start_light(name):
    code = (
        f"import sys, pipeline.stages.{name}\n"
        "heavy = {'torch', 'timm', 'albumentations', 'wandb', 'sklearn', 'scipy', 'pandas', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_only_artifacts_spells_file_names():
    names = re.compile(r'"[\w/.-]*\.(npy|safetensors|jsonl|pt)"|"(cv|fold|state|data|table)\.json"|"table\.csv"')
    for path in FILES:
        if path.name != "artifacts.py":
            found = [line for line in path.read_text().splitlines() if names.search(line) and "glob" not in line]
            assert not found, f"{path}: {found}"


def test_every_stage_is_a_make_target_and_in_the_readme():
    makefile, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    for path in (ROOT / "pipeline/stages").glob("[a-z]*.py"):
        assert re.search(rf"^{path.stem}:.*## ", makefile, re.M), f"{path.stem} is no target of the Makefile"
        assert f"`make {path.stem}" in readme, f"README does not tell of make {path.stem}"
    assert len(makefile.splitlines()) < 95


def test_readme_names_every_file_of_the_pipeline():
    readme = (ROOT / "README.md").read_text()
    for path in FILES:
        if path.name != "__init__.py":
            assert path.name in readme, f"README's tree lacks {path.relative_to(ROOT)}"


def test_tests_mirror_the_pipeline():
    for room_name in (
        "difficulty",
        "forecast",
        "images",
        "masks",
        "nets",
        "preflight",
        "scoring",
        "training",
        "trials",
    ):
        for path in (ROOT / "pipeline" / room_name).glob("[a-z]*.py"):
            # Test files of different rooms need different names: test_mask_metrics.py.
            assert list((ROOT / "tests" / room_name).glob(f"test_*{path.name}")), path


def test_benchmarks_import_what_is_there():
    """No test runs them, so a name that has moved would be found out by a person."""
    for script in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
                module = (ROOT / node.module.replace(".", "/")).with_suffix(".py")
                source = (module if module.exists() else module.with_suffix("") / "__init__.py").read_text()
                for name in node.names:
                    there = (module.with_suffix("") / f"{name.name}.py").exists()
                    assert there or re.search(rf"\b{name.name}\b", source), (
                        f"{script.name}: {node.module} has no {name.name}"
                    )


def test_constraints_name_every_dependency_and_no_host():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for need in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.match(r"[\w-]+", need).group().lower()
        assert name in pinned, name
    assert not re.search(r"://|@ |nvidia|triton", (ROOT / "constraints.txt").read_text())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.toml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_configs_are_valid(path, monkeypatch):
    from pipeline.store.config import load_competition
    from pipeline.store.runs import load_run

    monkeypatch.chdir(ROOT)
    if path.stem == "competition":
        load_competition(path.parent.name)
    else:
        load_run(f"{path.parent.name}/{path.stem}")
        assert path.read_text().startswith("# "), "a config opens with what it is"
    assert Path(path).read_text().startswith("#")
