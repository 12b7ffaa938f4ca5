"""What is told before anything is imported: the environment, and names that there are not."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT, make_competition, prepare

from pipeline.store.command import check_environment
from pipeline.store.errors import UserError
from pipeline.store.plugs import OF_MASKS, TABLES, names_in
from pipeline.store.section import validate
from pipeline.store.train import Train


@pytest.mark.parametrize("module, table, what", [*TABLES.values(), *OF_MASKS.values()])
def test_names_read_off_the_text_are_those_of_the_table(module, table, what):
    assert names_in(module, table) == list(getattr(importlib.import_module(module), table))


def test_a_table_that_is_gone_is_our_mistake():
    with pytest.raises(LookupError, match=r"training.optim has no table RECIPES"):
        names_in("pipeline.training.optim", "RECIPES")


WRONG = {
    "WANDB_MODE": ("offlne", "WANDB_MODE=offlne; did you mean 'offline'"),
    "LAUNCHER": ("lokal", "LAUNCHER=lokal; did you mean 'local'"),
    "JOBS": ("2", "JOBS=2 needs LAUNCHER=local"),
    "PODIUM_THREADS": ("0", "PODIUM_THREADS must be a whole number above 0, got '0'"),
    "PODIUM_WORKERS": ("many", "PODIUM_WORKERS must be a whole number, got 'many'"),
    "PODIUM_CACHE_GB": ("1.5", "PODIUM_CACHE_GB must be a whole number"),
    "PODIUM_CHECKPOINT_SECONDS": ("-1", "PODIUM_CHECKPOINT_SECONDS must be a whole number"),
}


UNASKED = [
    ({"semi": {"ratio": 3.0}}, "semi: ratio does nothing by itself: say method, too"),
    ({"adversarial": {"eps": 0.1}}, "adversarial: eps does nothing by itself: say method, too"),
    ({"decouple": {"tau": 0.5}}, "decouple: tau does nothing by itself: say method, too"),
    ({"metric_learning": {"neck": True, "margin": 0.5}}, "metric_learning: margin does nothing by itself: say loss"),
    ({"predict": {"tta": "d4", "bn_prior": 8}}, "predict: bn_prior does nothing by itself: say bn, too"),
]


@pytest.mark.parametrize("settings, said", UNASKED)
def test_settings_whose_switch_nobody_named(settings, said):
    with pytest.raises(UserError, match=said):
        validate(Train, settings, Path("a.toml"))
    ((section, given),) = settings.items()
    switch = said.split("say ")[1].split(",")[0]
    off = {section: given | {switch: "off" if switch == "bn" else "none"}}  # as a variation of a base may say
    assert validate(Train, off, Path("a.toml"))


@pytest.mark.parametrize("settings", [{"semi": "mean_teacher"}, {"adversarial": 1}, {"loss": {"auxiliary": ["age"]}}])
def test_a_table_is_told_in_the_words_of_the_user(settings):
    with pytest.raises(UserError, match=r"a.toml: [\w.]+: it is a table, as in [\w.]+ = \{ key = value \}, got"):
        validate(Train, settings, Path("a.toml"))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_environment(name, monkeypatch):
    monkeypatch.delenv("LAUNCHER", raising=False)
    check_environment()
    value, said = WRONG[name]
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        check_environment()


SAY = """
import sys
from pipeline.store.command import main, told
sys.argv = ["stage", *{arguments!r}]
import pipeline.stages.{stage} as stage
try:
    main(stage.run, "", *{names!r})
except SystemExit as end:
    assert end.code == 2, end.code
heavy = {{"torch", "timm", "albumentations", "wandb", "sklearn", "scipy", "pandas", "cv2"}} & set(sys.modules)
assert not heavy, heavy
"""
MISTAKES = {
    "run": ("train", ["toy/nope"], {}, "no config configs/toy/nope.toml"),
    "optimizer": ("train", ["toy/a"], {"[optim]": '[optim]\nname = "lamb"'}, "unknown optimizer 'lamb'"),
    "tta": ("train", ["toy/a"], {"[optim]": '[predict]\nhard_tta = "hflp"\n[optim]'}, "predict.hard_tta 'hflp'"),
    "stage of another": ("lb", ["toy/a"], {}, 'has stage = "train": run make train'),
    "audit of nothing": ("audit", ["toy/a"], {}, "'toy/a' has no runs/toy/a/cv.json"),
    "audit of nobody": ("audit", ["toy/nope"], {}, "no config configs/toy/nope.toml"),
    "submission of nothing": ("submit", ["toy/a"], {}, "runs/toy/a/cv.json is missing"),
    "competition": ("folds", ["tow"], {}, "no competition 'tow'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_before_anything_heavy_is_imported(case, house):
    make_competition(house, "multiclass")
    prepare()
    stage, arguments, changes, said = MISTAKES[case]
    config = house / "configs/toy/a.toml"
    for old, new in changes.items():
        config.write_text(config.read_text().replace(old, new))
    names = ["competition"] if stage == "folds" else ["run"]
    code = SAY.format(stage=stage, arguments=arguments, names=names)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=house, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
