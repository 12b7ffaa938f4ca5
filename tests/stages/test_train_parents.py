"""What a run may learn from: whatever saw the labels it is scored on is refused, in one line, before anything is written."""

import shutil
from pathlib import Path

import fakes
import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare, stage, write

from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_json, write_npy


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two competitions that share no image, and in the first of them runs that nobody trained."""
    root, patch = tmp_path_factory.mktemp("prepared"), pytest.MonkeyPatch()
    patch.chdir(root)
    for name, task in (("toy", "multiclass"), ("far", "ordinal")):
        make_competition(root, task, name)
        write("a", Path(f"configs/{name}/a.toml").read_text().replace("epochs = 3", "epochs = 1"), name)
        prepare(name)
    for seed, name in enumerate("ab"):
        fakes.train(f"toy/{name}", seed=seed)
    write("p", 'stage = "pseudo"\nrun = "a"\n')
    stage("pseudo", "toy/p")
    write("t", 'stage = "tag"\nrun = "a"\n')
    rows = {"id": "i000", "repeat": 0, "fold": [0, 1, 2], "weight": 1.0, "tag": "easy", "difficulty": 0.5}
    RunFiles("toy/t").folder.mkdir()
    pd.DataFrame(rows).to_csv(RunFiles("toy/t").difficulty_train, index=False)
    fakes.sign("toy/t", "tag")
    blend(method="convex")
    patch.undo()
    return root


@pytest.fixture
def house(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "house")
    monkeypatch.chdir(tmp_path / "house")
    return tmp_path / "house"


def blend(method):
    write("blend", f'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "{method}"\n')
    files = RunFiles("toy/blend")
    for path in (files.oof, *(files.fold(k).test for k in range(3))):
        write_npy(path, np.zeros(1))
    fakes.sign("toy/blend", "ensemble", "crossfit", parents=["toy/a", "toy/b"])


def put(image, where):
    """Another picture in the folder, and the table of record made afresh."""
    shutil.copy(image, where)
    RunFiles("far/a").competition.table.unlink(missing_ok=True)


def train(settings):
    write("n", f'base = "a"\n{settings}')
    stage("train", "toy/n")


def refused(settings, match):
    """A refusal is one line and leaves nothing behind."""
    with pytest.raises(UserError, match=match) as caught:
        train(settings)
    assert "\n" not in str(caught.value)
    assert {path.name for path in RunFiles("toy/n").folder.glob("*")} <= {".lock"}


ROLE = {"pseudo": 'pseudo = "p"\n', "teacher": 'teacher = "b"\n', "tags": 'tags = "t"\n', "init": 'init = "b"\n'}
RUN = {"pseudo": "p", "teacher": "b", "tags": "t", "init": "b"}


@pytest.mark.parametrize("level", ["crossfit", "saw"])
@pytest.mark.parametrize("role", ROLE)
def test_whatever_is_not_blind(house, role, level):
    fakes.edit(f"toy/{RUN[role]}", level={"0": "blind", "1": level, "2": "blind"})
    refused(ROLE[role], rf"{role} = 'toy/{RUN[role]}' is not blind to fold 1 \(level {level}\): .* select = \"last\"")


def test_a_blend_with_a_member_that_is_not_blind(house):
    fakes.edit("toy/b", level=dict.fromkeys("012", "crossfit"))
    refused('teacher = "blend"\n', "teacher = 'toy/b' is not blind to fold 0")


@pytest.mark.parametrize("role", ROLE)
def test_whatever_was_made_for_other_folds(house, role):
    fakes.edit(f"toy/{RUN[role]}", fold_map="another")
    refused(ROLE[role], f"'toy/{RUN[role]}' was made for other folds or test rows than those of today")


@pytest.mark.parametrize("role", ["pseudo", "teacher", "tags"])
def test_whatever_was_made_for_other_test_rows(house, role):
    fakes.edit(f"toy/{RUN[role]}", test="another")
    refused(ROLE[role], f"'toy/{RUN[role]}' was made for other folds or test rows than those of today")


@pytest.mark.parametrize("settings, what", [
    ('pseudo = "a"\n', "pseudo = 'toy/a' is of stage train; it must be of stage pseudo"),
    ('tags = "p"\n', "tags = 'toy/p' is of stage pseudo; it must be of stage tag"),
    ('teacher = "p"\n', "teacher = 'toy/p' is of stage pseudo; it must be of stage train or ensemble"),
    ('init = "blend"\n', "init = 'toy/blend' is of stage ensemble; it must be of stage train"),
])  # fmt: skip
def test_a_run_of_another_stage(house, settings, what):
    refused(settings, what)


@pytest.mark.parametrize("role", ROLE)
def test_a_run_that_is_not_there(house, role):
    refused(f'{role} = "pp"\n', r"no config configs/toy/pp.toml; did you mean")
    RunFiles(f"toy/{RUN[role]}").receipt.unlink()
    refused(ROLE[role], f"{role} 'toy/{RUN[role]}' has no .*cv.json: run make .* COMP=toy NAME={RUN[role]} first")


def test_pseudo_labels_that_were_edited_by_hand(house):
    path = RunFiles("toy/p").pseudo
    path.write_text(path.read_text().replace("i061", "i000"))
    refused(ROLE["pseudo"], r"pseudo 'toy/p': runs/toy/p/pseudo.csv is not what its receipt says")


def test_out_of_fold_targets_are_not_blind(house):
    refused(
        'teacher = "b"\ndistill.nested = "oof"\n',
        r"out-of-fold targets come from models that trained on fold k, so they",
    )


def test_pairs_that_were_never_trained(house):
    refused(
        'teacher = "blend"\ndistill.nested = "pairs"\n',
        r'distill.nested = "pairs" needs pairs = true in configs/toy/a.toml',
    )


@pytest.mark.parametrize("settings, what", [
    (ROLE["pseudo"] + ROLE["teacher"], "pseudo and teacher exclude each other"),
    ('[student]\nshare = 0.5\n', r"\[student\] needs pseudo"),
    ('[distill]\nalpha = 0.5\n', r"\[distill\] needs teacher"),
    ('[difficulty]\nhard = 2.0\n', r"\[difficulty\] needs tags"),
    *((f"pairs = true\n{ROLE[role]}", "pairs = true needs a run of its own") for role in ROLE),
    *((f"indicators = true\n{ROLE[role]}", "indicators = true needs a run of its own") for role in ROLE),
    ('pairs = true\nselect = "best"\n', "pairs = true needs a run of its own"),
    ('pseudo = "p"\n[student]\nshare = 1.0\n', "student.share"),
    ('teacher = "b"\n[distill]\ntemperature = 0.5\n', "distill.temperature"),
])  # fmt: skip
def test_settings_that_contradict_each_other(house, settings, what):
    refused(settings, what)


# Weights from elsewhere


@pytest.mark.parametrize("role", ["pseudo", "teacher", "tags"])
def test_only_weights_may_come_from_another_competition(house, role):
    for name in ("p", "t"):
        write(name, f'stage = "{"pseudo" if name == "p" else "tag"}"\nrun = "a"\n', "far")
    write("b", 'base = "a"\n', "far")
    name = RUN[role]
    fakes.sign(f"far/{name}", {"pseudo": "pseudo", "tags": "tag"}.get(role, "train"))
    refused(f'{role} = "far/{name}"\n', f"{role} = 'far/{name}' is of another competition: only init may be")


def test_weights_that_saw_the_images_that_are_scored_here(house):
    """The same pictures under other names, in a competition with other folds and other labels."""
    for one, other in (("i000", "i010"), ("i007", "i011")):
        put(house / f"data/toy/train/{one}.png", house / f"data/far/train/{other}.png")
    prepare("far")
    fakes.train("far/a", "ordinal")
    refused(
        'init = "far/a"\n',
        r"init = 'far/a' has trained on 2 images that are scored here, for example that of id 'i000'",
    )


def test_weights_that_never_saw_the_images_that_are_scored_here(house):
    """Images that nobody trained on there, or that nobody scores here, do not matter."""
    put(house / "data/toy/train/i003.png", house / "data/far/test/i070.png")
    put(house / "data/toy/test/i065.png", house / "data/far/train/i005.png")
    prepare("far")
    stage("train", "far/a")
    train('init = "far/a"\n')
    known = read_json(RunFiles("toy/n").receipt)
    assert [(parent["role"], parent["run"]) for parent in known["parents"]] == [("init", "far/a")]
    assert known["level"] == dict.fromkeys("012", "blind")


def test_new_test_rows_do_not_matter_to_weights(house):
    """They were there before the test rows of today: what was trained stays what it is."""
    stage("train", "toy/b")
    sample = house / "data/toy/sample_submission.csv"
    sample.write_text("\n".join(sample.read_text().splitlines()[:-4]) + "\n")
    prepare()
    train(ROLE["init"])
    assert np.load("runs/toy/n/test.npy").shape == (20, 4)


def test_a_fitted_blend_teaches_through_its_members(house):
    """Its own weights saw other folds' rows; the members' own models of fold k did not see fold k."""
    train('teacher = "blend"\n')
    assert read_json(RunFiles("toy/n").receipt)["level"] == dict.fromkeys("012", "blind")
    before = np.load("runs/toy/n/oof.npy")
    blend(method="greedy")  # another blend of the same members says the same
    train('teacher = "blend"\n')
    assert np.array_equal(np.load("runs/toy/n/oof.npy"), before)
    fakes.train("toy/b", seed=9)
    train('teacher = "blend"\n')
    assert not np.array_equal(np.load("runs/toy/n/oof.npy"), before)
