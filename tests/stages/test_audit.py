"""Every kind of leak that is planted in a clean house is found, by name; in the clean house nothing is."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare, stage

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.scoring.blend import Blend
from pipeline.scoring.cuts import fit
from pipeline.scoring.metrics import get_metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest, digest_file, read_json, write_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import half_of, read_table
from pipeline.tasks import TASKS

CONFIGS = {
    "toy/b": 'base = "a"\nseed = 1\npairs = true\n',
    "toy/best": 'base = "a"\nseed = 3\nselect = "best"\nepochs = 4\n',
    "toy/p": 'stage = "pseudo"\nrun = "blend"\nquota = 0.8\n',
    "toy/s": 'base = "a"\npseudo = "p"\ninit = "b"\n',
    "toy/d": 'base = "a"\nteacher = "blend"\ndistill.nested = "none"\n',
    "toy/t": 'stage = "tag"\nrun = "blend"\n',
    "toy/strict": 'stage = "tag"\nrun = "b"\nstrict = true\n',
    "toy/g": 'base = "a"\ntags = "t"\ndifficulty.suspect = "relabel"\n',
    "toy/p2": 'stage = "pseudo"\nrun = "s"\ntags = "t"\nstop = false\ntargets = "soft"\n',
    "toy/x": 'base = "a"\ninit = "far/a"\n',
    "toy/top": 'stage = "ensemble"\nmembers = ["s", "d", "x", "best"]\nmethod = "convex"\n',
    "toy/l": 'stage = "lb"\nrun = "top"\n',
    "cut/l": 'stage = "lb"\nrun = "blend"\n',
    "cut/a": 'base = "toy/a"\ndecision = "optimal"\n',
    "cut/b": 'base = "a"\nseed = 1\n',
    "cut/blend": 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "convex"\ndecision = "optimal"\n',
}
TOY = "a b best blend p s d x top t strict g p2 l"
ORDER = ["far/a", *(f"toy/{name}" for name in TOY.split()), *(f"cut/{name}" for name in ("a", "b", "blend", "l"))]
STAGES = {"ensemble": ("blend", "top"), "pseudo": ("p", "p2"), "tag": ("t", "strict"), "lb": ("l",)}
STAGE_OF = {name: stage for stage, names in STAGES.items() for name in names}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A house with every kind of run, made by the real stages."""
    root, before = tmp_path_factory.mktemp("house"), Path.cwd()
    os.chdir(root)
    try:
        for name, task, metric in (("toy", "multiclass", ""), ("far", "ordinal", ""), ("cut", "binary", "f1")):
            make_competition(root, task, name, 60, 24, metric=metric)
            prepare(name)
        for run, text in CONFIGS.items():
            Path(f"configs/{run}.toml").write_text(text)
        for path in Path("configs").glob("*/a.toml"):
            path.write_text(path.read_text().replace("epochs = 3", "epochs = 2"))
        for run in ORDER:
            stage(STAGE_OF.get(run.split("/")[1], "train"), run)
    finally:
        os.chdir(before)
    for folder in ("data", "cache/toy/images", "cache/cut/images", "cache/far/images"):
        shutil.rmtree(root / folder)
    return root


@pytest.fixture
def house(clean, tmp_path, monkeypatch):
    """A copy of the clean house to plant a leak in."""
    shutil.copytree(clean, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def findings(run="toy/top"):
    return [str(finding) for finding in audit(run, refit).findings]


def found(run, *words):
    """Say that some finding tells of all the words, in this order; show all findings else."""
    places = [[line.find(word) for word in words] for line in findings(run)]
    assert any(-1 not in at and at == sorted(at) for at in places), "\n".join(findings(run)) or "nothing was found"


def sign(run):
    """Write the hashes of today's files into every receipt of a run: a leak is not a broken hash."""
    paths = sorted(Path("runs", run).rglob("*.json"), key=lambda path: -len(path.parts))
    for path in [p for p in paths if p.name in ("fold.json", "cv.json")]:
        receipt = read_json(path)
        write_json(path, receipt | {"outputs": {name: digest_file(Path(name)) for name in receipt["outputs"]}})
    for other in Path("runs").glob("*/*"):
        changed = [tell(path) for path in other.rglob("fold.json") if str(other) != f"runs/{run}"]
        if any(changed):
            sign(str(other.relative_to("runs")))


def tell(path):
    """Let a model's receipt speak of today's files of the runs it learnt from; say whether it did not before."""
    receipt = read_json(path)
    known = receipt.get("parents", [])
    parents = [p | {"files": {n: digest_file(Path(n)) for n in p.get("files", {}) if Path(n).exists()}} for p in known]
    now = [
        parent | {"files": p["files"]} if "files" in parent else parent
        for parent, p in zip(known, parents, strict=True)
    ]
    if now != known:
        write_json(path, receipt | {"parents": now})
    return now != known


def change(path, **facts):
    """Change facts of a receipt, and sign the run."""
    write_json(Path("runs", path), read_json(Path("runs", path)) | facts)
    sign("/".join(path.split("/")[:2]))


def edit(path, function):
    """Change an array, and sign the run."""
    array = np.load(Path("runs", path))
    np.save(Path("runs", path), function(array).astype(array.dtype))
    sign("/".join(path.split("/")[:2]))


def train_on(model, rows):
    """Let a model have trained on some rows, as the train stage would write it."""
    table, folder = the_table(), Path("runs", model)
    np.save(folder / "rows.npy", np.asarray(rows, np.int32))
    told = {"rows": len(rows), "ids": digest(*table.ids[rows])}
    seen = np.load(folder / "epochs.npy")
    seen[~np.isin(table.scored, rows)], seen[np.isin(table.scored, rows)] = np.nan, 0.5
    np.save(folder / "epochs.npy", seen)
    change(f"{model}/fold.json", trained_on=told)


def the_table(name="toy"):
    files = CompetitionFiles(name)
    return read_table(files, read_table_facts(files))


def put_table(function, name="toy"):
    """Change the table of record, and sign it and every run."""
    files = CompetitionFiles(name)
    frame = function(pd.read_csv(files.table, dtype=str, keep_default_na=False))
    frame.to_csv(files.table, index=False)
    facts = read_json(files.table_receipt)
    write_json(files.table_receipt, facts | {"outputs": {str(files.table): digest_file(files.table)}})
    table = the_table(name)
    today = {"fold_map": table.fold_map(), "scored": table.content(table.scored), "test": table.content(table.test)}
    write_json(files.table_receipt, read_json(files.table_receipt) | today)
    for path in Path("runs", name).glob("*/cv.json"):
        rows = {"fold_map": today["fold_map"], "rows": today["scored"], "test": today["test"]}
        write_json(path, read_json(path) | rows)


@pytest.mark.parametrize("run", ["toy/l", "toy/g", "toy/p2", "toy/strict", "cut/l"])
def test_nothing_is_found_in_a_clean_house(run, house):
    """These rest on all runs; nor is anything found where all is signed again, as it is after a leak is planted."""
    assert findings(run) == []
    for name in ORDER:
        sign(name)
    put_table(lambda frame: frame)
    assert findings(run) == []


def test_tree_levels_and_exit_status(house, capsys):
    stage("audit", "toy/top")
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["toy/top", "ensemble", "crossfit"]
    assert "    pseudo toy/p  pseudo  blind" in told
    assert "  member toy/best  train  crossfit  3 models, each trained on 40 rows" in told
    assert sum(line.endswith("(see above)") for line in told) >= 3
    assert told[-1].startswith("OK: 10 runs, ")
    change("toy/s/fold1/half0/fold.json", chosen_on=[1])
    with pytest.raises(SystemExit) as stop:
        stage("audit", "toy/top")
    assert stop.value.code == 1
    told = capsys.readouterr().out
    assert "member toy/s  train  blind to folds 0,2; saw to fold 1" in told
    assert "not honest: toy/top -> member toy/s -> toy/s/fold1/half0: its epoch was chosen on scores of fold 1" in told
    with pytest.raises(UserError, match="no config configs/toy/none.toml"):
        stage("audit", "toy/none")


def test_outside_knowledge_is_told(house, capsys):
    config = read_json(Path("runs/toy/x/cv.json"))["config"]
    config["model"] |= {"weights": "pretrained", "name": "my_nets:wide"}
    change("toy/x/cv.json", config=config)
    stage("audit", "toy/x")
    told = capsys.readouterr().out
    assert "cannot be audited: toy/x: pretrained weights of my_nets:wide" in told
    assert "cannot be audited: toy/x: own code my_nets:wide" in told


# What a model trained on.


def test_rows_of_its_own_fold(house):
    table = the_table()
    train_on("toy/a/fold0", np.flatnonzero(table.folds >= 0))
    found("toy/a", "toy/a/fold0: trained on 20 rows of fold 0", "level saw")
    found("toy/top", "member toy/s -> ", "pseudo toy/p -> toy/a/fold0: trained on 20 rows of fold 0")
    found("toy/d", "toy/d/fold0 -> teacher toy/blend -> toy/a/fold0: trained on 20 rows of fold 0")


def test_rows_of_its_own_fold_that_the_receipt_denies(house):
    table = the_table()
    train_on("toy/a/fold0", np.flatnonzero(table.folds >= 0))
    rows = np.flatnonzero(table.folds > 0)
    np.save("runs/toy/a/fold0/rows.npy", rows.astype(np.int32))
    change("toy/a/fold0/fold.json", trained_on={"rows": len(rows), "ids": digest(*table.ids[rows])})
    found("toy/a", "toy/a/fold0: epochs.npy shows that it trained on 20 rows that rows.npy lacks")


def test_rows_of_another_receipt(house):
    edit("toy/a/fold0/rows.npy", lambda rows: rows[1:])
    found("toy/a", "toy/a/fold0: rows.npy holds other rows than the receipt says it trained on")
    edit("toy/a/fold0/rows.npy", lambda rows: rows + 1000)
    found("toy/a", "toy/a/fold0: rows.npy holds positions that are not in the table")


def test_a_model_that_left_out_another_fold(house):
    change("toy/a/fold0/fold.json", held_out=[1])
    found("toy/a", "toy/a/fold0: its folder is of folds [0], its receipt says it held out [1]")


def test_group_across_folds(house):
    def one_patient(frame):
        frame.loc[frame["fold"] == "0", "group"] = np.r_[["eve"], [""] * 19]
        frame.loc[frame["fold"] == "1", "group"] = np.r_[["eve"], [""] * 19]
        return frame

    put_table(one_patient)
    found("toy/a", "toy/a/fold0: trained on 1 rows that share a group or an image with fold 0")
    found("toy/a", "toy/a/fold1: trained on 1 rows that share a group or an image with fold 1")
    assert not any("fold2" in line for line in findings("toy/a"))


def test_duplicate_image_across_folds(house):
    def same_image(frame):
        first = frame.index[frame["fold"] == "0"][0]
        frame.loc[frame.index[frame["fold"] == "2"][0], "digest"] = frame.loc[first, "digest"]
        return frame

    put_table(same_image)
    found("toy/a", "toy/a/fold0: trained on 1 rows that share a group or an image with fold 0")
    found("toy/a", "toy/a/fold2: trained on 1 rows that share a group or an image with fold 2")


def with_holdout(frame):
    """Two held-out rows; one is of a patient who is nobody else."""
    rows = frame[:2].assign(id=["h0", "h1"], fold="-2", digest=["x0", "x1"], group=["zoe", ""])
    return pd.concat([frame, rows])


def test_holdout_used(house):
    put_table(with_holdout)
    assert findings("toy/top") == []
    table = the_table()
    train_on("toy/a/fold0", np.flatnonzero((table.folds > 0) | (table.ids == "h1")))
    found("toy/a", "toy/a/fold0: trained on 1 rows of the holdout, for example id 'h1'")
    found("toy/d", "teacher toy/blend -> toy/a/fold0: trained on 1 rows of the holdout")


def test_a_patient_of_the_holdout_used(house):
    def known(frame):
        frame = with_holdout(frame)
        frame.loc[frame["id"] == "i000", "group"] = "zoe"
        return frame

    put_table(known)
    found("toy/a", "trained on 1 rows that share a group or an image with the holdout, for example id 'i000'")


def test_a_row_in_the_gap_around_its_fold_used(house):
    table = the_table()
    row = table.ids[table.folds == 1][0]
    put_table(lambda frame: frame.assign(shut=np.where(frame["id"] == row, "0", "")))
    found("toy/a", f"toy/a/fold0: trained on 1 rows that lie in the gap around fold 0, for example id {str(row)!r}")


def test_test_rows_without_pseudo_labels(house):
    table = the_table()
    train_on("toy/a/fold0", np.flatnonzero((table.folds > 0) | (table.ids == "i061")))
    found("toy/a", "toy/a/fold0: trained on 1 test rows that no pseudo-label gives it, for example id 'i061'")


# Which epoch it is of.


def test_self_stopped_fold(house):
    change("toy/best/fold1/fold.json", chosen_on=[0, 1, 2])
    found("toy/best", "toy/best/fold1: its epoch was chosen on scores of fold 1 (level saw")
    assert len(findings("toy/best")) == 1


def test_self_stopped_fold_that_the_receipt_denies(house):
    path = Path("runs/toy/best/fold1/model.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["podium"])
    ours["curve"] = [0.1 * (epoch == (ours["epoch"] + 1) % 4) for epoch in range(4)]
    ours["epoch"] = (ours["epoch"] + 1) % 4
    header["__metadata__"]["podium"] = json.dumps(ours)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    sign("toy/best")
    found("toy/best", f"epoch {ours['epoch']} of toy/best/fold1 is not the best of the other folds, but of its own")


def test_a_choice_that_the_receipt_hides(house):
    for k in range(3):
        change(f"toy/best/fold{k}/fold.json", chosen_on=[], level="blind")
    change("toy/best/cv.json", level={"0": "blind", "1": "blind", "2": "blind"})
    found("toy/best", "toy/best/fold0: its epoch was chosen, and the receipt does not say on which folds")


def test_a_level_that_is_not_earned(house):
    change("toy/best/cv.json", level={"0": "blind", "1": "blind", "2": "blind"})
    found("toy/best", "toy/best/fold2: its epoch was chosen on scores of folds [0, 1] (level crossfit, must be blind)")


# What it was told by others.


def adopt(run, role, parent, **facts):
    """Let every model of a run have a parent, as the train stage would write it."""
    entry = {"role": role, "run": parent, "key": read_json(Path("runs", parent, "cv.json"))["key"], "level": {}} | facts
    for path in [*Path("runs", run).rglob("fold.json"), Path("runs", run, "cv.json")]:
        receipt = read_json(path)
        receipt["parents"] = [p for p in receipt["parents"] if p["role"] != role] + [entry]
        if path.name == "cv.json":
            receipt["config"][role] = parent
        write_json(path, receipt)
    sign(run)


def test_initial_weights_of_another_fold(house):
    wrong = "runs/toy/b/fold1/model.safetensors"
    adopt("toy/s", "init", "toy/b", files={wrong: digest_file(Path(wrong))})
    found("toy/top", "member toy/s -> toy/s/fold0/half0 -> init toy/b -> toy/b/fold1: trained on 20 rows of fold 0")
    assert not any("toy/s/fold1" in line for line in findings("toy/s"))


def test_initial_weights_that_lie_in_the_folder_of_another_fold(house):
    folder = Path("runs/toy/b/fold0")
    for name in ("model.safetensors", "rows.npy", "epochs.npy"):
        shutil.copy(folder.parent / "fold1" / name, folder / name)
    change("toy/b/fold0/fold.json", trained_on=read_json(folder.parent / "fold1/fold.json")["trained_on"])
    found("toy/s", "toy/s/fold0/half0 -> init toy/b -> toy/b/fold0: trained on 20 rows of fold 0")
    found("toy/b", "toy/b/fold1/model.safetensors: is a copy of runs/toy/b/fold0/model.safetensors")


def test_initial_weights_of_a_run_that_chose_its_epochs(house):
    adopt("toy/x", "init", "toy/best")
    found("toy/x", "init toy/best -> toy/best/fold0: its epoch was chosen on", "level crossfit, must be blind")


def test_transfer_from_overlapping_data(house):
    ours = pd.read_csv("cache/toy/table.csv", dtype=str)
    mine = ours["digest"][ours["fold"] == "1"].iloc[0]

    def overlap(frame):
        frame.loc[frame.index[frame["fold"] == "0"][0], "digest"] = mine
        return frame

    put_table(overlap, "far")
    assert findings("far/a") == []
    # Their model 0 left the image out, their model 1 did not; only our fold 1 minds.
    found("toy/x", "toy/x/fold1 -> init far/a -> far/a/fold1: trained on 1 rows that share a group or an image with")
    assert len(findings("toy/x")) == 1


def test_a_parent_that_was_made_again(house):
    change("toy/b/cv.json", key="another")
    found("toy/s", "was built on another init toy/b than lies there now")
    wrong = "runs/toy/b/fold1/model.safetensors"
    change("toy/b/cv.json", key=read_json(Path("runs/toy/p/cv.json"))["parents"][1]["key"])
    adopt("toy/s", "init", "toy/b", files={wrong: "of old"})
    found("toy/s", f"init toy/b -> {wrong}: is not what its receipt says")


def test_a_parent_that_the_receipt_hides(house):
    for path in [*Path("runs/toy/s").rglob("fold.json"), Path("runs/toy/s/cv.json")]:
        write_json(path, read_json(path) | {"parents": []})
    sign("toy/s")
    found("toy/s", "its config names init = 'toy/b', of which the receipt says nothing")
    found("toy/s", "its config names pseudo = 'toy/p', of which the receipt says nothing")


# Teachers.


def test_out_of_fold_targets(house):
    adopt("toy/d", "teacher", "toy/a", files={"runs/toy/a/oof.npy": digest_file(Path("runs/toy/a/oof.npy"))})
    found("toy/top", "toy/d/fold0 -> teacher toy/a -> toy/a/fold1: trained on 20 rows of fold 0")


def test_out_of_fold_targets_by_config(house):
    config = read_json(Path("runs/toy/d/cv.json"))["config"]
    config["distill"]["nested"] = "oof"
    for k in range(3):
        path = f"toy/d/fold{k}/fold.json"
        change(path, parents=[p | {"files": {}} for p in read_json(Path("runs", path))["parents"]])
    change("toy/d/cv.json", config=config)
    found("toy/d", "toy/d/fold0 -> teacher toy/blend -> toy/a/fold1: trained on 20 rows of fold 0")


def pseudo_labels(function):
    """Change the pseudo-labels, and sign them; students are given what names them."""
    frame = pd.read_csv("runs/toy/p/pseudo.csv", dtype={"id": str})
    frame = function(frame)
    frame.to_csv("runs/toy/p/pseudo.csv", index=False)
    sign("toy/p")
    table = the_table()
    for k in range(3):
        for half in (0, 1):
            ids = frame["id"][(frame["fold"] == k) & (frame["half"] == half)]
            mine = ((table.folds >= 0) & (table.folds != k)) | np.isin(table.ids, ids)
            train_on(f"toy/s/fold{k}/half{half}", np.flatnonzero(mine))


def test_all_fold_teacher(house):
    tests = [np.mean([np.load(f"runs/toy/{run}/fold{k}/test.npy") for run in "ab"], 0) for k in range(3)]
    everyone = dict(zip(the_table().ids[60:], np.eye(4)[np.mean(tests, 0).argmax(1)], strict=True))
    columns = ["t0", "t1", "t2", "t3"]
    changed = []

    def all_folds(frame):
        changed.append(frame)
        new = np.array([everyone[i] for i in frame["id"]])
        changed.append((new != frame[columns].to_numpy()).any(1).sum())
        return frame.assign(**dict(zip(columns, new.T, strict=True)))

    pseudo_labels(lambda frame: frame)
    assert findings("toy/s") == []
    pseudo_labels(all_folds)
    assert changed[1] > 0, "the folds' models agree: nothing was planted"
    found("toy/s", "pseudo toy/p: ", "labels are not what models of fold", "say, but what the models of all folds say")
    found("toy/top", "member toy/s -> toy/s/fold", "pseudo toy/p: ", "labels are not what models of fold")


def test_pseudo_labels_chosen_otherwise(house):
    pseudo_labels(lambda frame: frame.drop(frame.index[frame["fold"] == 1][0]))
    found("toy/s", "pseudo toy/p: 1 rows are chosen otherwise than models of fold 1 choose")


def test_pseudo_row_predicted_by_its_own_student(house):
    half = half_of(the_table().ids[60:])
    own = np.where((half == 0)[:, None], *(np.load(f"runs/toy/s/fold1/half{h}/test.npy") for h in (0, 1)))
    edit("toy/s/fold1/test.npy", lambda test: np.r_[own[:4], test[4:]])
    found("toy/s", "toy/s/fold1: 4 rows of test.npy are not the predictions of the other half's student")


def test_pseudo_row_of_the_other_half(house):
    def swap(frame):
        return frame.assign(half=np.where(frame.index == 0, 1 - frame["half"], frame["half"]))

    pseudo_labels(swap)
    found("toy/s", "pseudo.csv: 1 rows are of another half than their ids: their own students predict them")
    found("toy/s", "trained on pseudo-labels of 1 rows that it predicts")


def test_pseudo_label_of_another_model(house):
    table = the_table()
    rows = np.load("runs/toy/s/fold0/half0/rows.npy")
    mine, other = table.folds[rows] >= 0, np.load("runs/toy/s/fold0/half1/rows.npy")
    train_on("toy/s/fold0/half0", np.r_[rows[mine], other[table.folds[other] < 0]])
    found("toy/s", "toy/s/fold0/half0: trained on", "test rows that no pseudo-label gives it")
    found("toy/s", "toy/s/fold0/half0: did not train on", "rows whose pseudo-labels name it")


def test_pseudo_label_of_a_training_row(house):
    def own_row(frame):
        return pd.concat([frame, frame[:1].assign(id="i000", half=half_of(np.array(["i000"]))[0])])

    pseudo_labels(own_row)
    found("toy/p", "pseudo.csv: labels rows that are no test rows")


def test_holdout_pseudo_labelled(house):
    put_table(with_holdout)
    pseudo_labels(lambda frame: pd.concat([frame, frame[:1].assign(id="h0")]))
    found("toy/p", "pseudo.csv: names 1 rows of the holdout")


# Tags.


def tag(function):
    """Change the training tags of toy/t, and sign them."""
    path = Path("runs/toy/t/difficulty_train.csv")
    function(pd.read_csv(path, dtype={"id": str, "tag": str})).to_csv(path, index=False)
    sign("toy/t")


def test_training_tags_of_out_of_fold_predictions(house):
    table, columns = the_table(), ["t0", "t1", "t2", "t3"]
    oof = np.mean([np.load(f"runs/toy/{run}/oof.npy") for run in "ab"], 0)
    said = pd.DataFrame(np.eye(4)[oof.argmax(1)], table.ids[table.scored], columns)

    def of_oof(frame):
        rows = frame["id"].isin(said.index)
        assert (frame.loc[rows, columns].to_numpy() != said.loc[frame["id"][rows]].to_numpy()).any()
        frame.loc[rows, columns] = said.loc[frame["id"][rows]].to_numpy()
        return frame

    tag(of_oof)
    found("toy/g", "toy/g/fold0 -> tags toy/t: ", "tags are not what models of fold 0 say, but what out-of-fold")
    found("toy/p2", "tags toy/t: ", "tags are not what models of fold 0 say, but what out-of-fold predictions say")


def test_training_weights_of_other_models(house):
    tag(lambda frame: frame.assign(weight=np.where(frame.index == 0, 0.123, frame["weight"])))
    found("toy/g", "toy/g/fold0 -> tags toy/t: 1 tags are not what models of fold 0 say, for example id")
    assert not any("toy/g/fold1" in line for line in findings("toy/g"))
    tree = audit("toy/p2", refit).tree
    assert tree[0] == "toy/p2  pseudo  blind to folds 1,2; saw to fold 0"
    assert "  tags toy/t  tag  blind to folds 1,2; saw to fold 0" in tree


def test_suspects_of_other_models(house):
    def accuse(frame):
        row = frame.index[(frame["fold"] == 2) & (frame["weight"] > 0.6)][0]
        return frame.assign(tag=np.where(frame.index == row, "suspect", frame["tag"]))

    tag(accuse)
    found("toy/g", "toy/g/fold2 -> tags toy/t: 1 tags are not what models of fold 2 say")


def test_strict_tags_of_other_models(house):
    edit("toy/b/pair0-1/train.npy", lambda train: train[:, ::-1])
    found("toy/strict", "tags are not what models of fold 0 say")


def test_training_tags_whose_receipt_owns_up(house):
    change("toy/t/cv.json", source="oof")
    found("toy/g", "tags toy/t -> ", "difficulty_train.csv: was made from out-of-fold predictions")


def test_training_tags_of_the_own_fold(house):
    def own(frame):
        table = the_table()
        ids = table.ids[table.folds == 1]
        return pd.concat([frame, frame[frame["id"].isin(ids) & (frame["fold"] == 0)].assign(fold=1)])

    tag(own)
    found("toy/g", "tags toy/t -> ", "difficulty_train.csv: tags 20 rows for the very model that never trains on them")


def test_training_tags_of_models_that_saw(house):
    change("toy/a/fold2/fold.json", chosen_on=[2])
    found("toy/g", "toy/g/fold2 -> tags toy/t -> toy/a/fold2: its epoch was chosen on scores of fold 2")


# What was fitted on out-of-fold rows.


def solver(receipt):
    table, task = the_table("cut"), TASKS["binary"]
    problem = Problem.of(table, task, get_metric("f1", task))
    return problem, Blend(
        problem, [np.load(f"runs/cut/{m}/oof.npy").astype(float) for m in "ab"], "probability", "convex"
    )


def reblend(weights):
    """Blend cut/a and cut/b again with the given weights of each fold, with honest cuts, and sign."""
    receipt = read_json(Path("runs/cut/blend/cv.json"))
    problem, blend = solver(receipt)
    oof, labels, cuts = np.load("runs/cut/blend/oof.npy"), np.zeros(60, int), {}
    for k in range(3):
        mine, view = problem.folds == k, blend.predict(np.array(weights[k])).astype(np.float32)
        oof[mine], cuts[str(k)] = view[mine], fit(problem, "optimal", ~mine, view)[0]
        labels[mine] = problem.task.decide(view[mine], cuts[str(k)])
        test = sum(
            w * np.load(f"runs/cut/{m}/fold{k}/test.npy").astype(float) for w, m in zip(weights[k], "ab", strict=True)
        )
        np.save(f"runs/cut/blend/fold{k}/test.npy", test.astype(np.float32))
    np.save("runs/cut/blend/oof.npy", oof)
    score = problem.metric.function(problem.y, labels, np.ones(60))
    told = {"weights_by_fold": dict(enumerate(weights)), "decision": receipt["decision"] | {"by_fold": cuts}}
    change("cut/blend/cv.json", **told, metrics=receipt["metrics"] | {"score": score})


def test_blend_weights_in_sample(house):
    receipt = read_json(Path("runs/cut/blend/cv.json"))
    honest, deployed = list(receipt["weights_by_fold"].values()), list(receipt["weights"].values())
    reblend(honest)
    assert findings("cut/blend") == []
    reblend([deployed] * 3)
    assert not np.allclose(honest[0], deployed, atol=0.01), "nothing was planted"
    found(
        "cut/blend", "the weights of fold 0 are not those of a fit without it, but of all rows: it was fitted in-sample"
    )


def test_rows_blended_with_other_weights(house):
    edit("cut/blend/oof.npy", lambda oof: (np.load("runs/cut/a/oof.npy") + np.load("runs/cut/b/oof.npy")) / 2)
    found("cut/blend", "the rows of fold 0 are not blended with the weights of fold 0")
    edit("cut/blend/fold2/test.npy", lambda test: test + 0.01)
    found("cut/blend", "the test predictions of fold 2 are not blended with the weights of fold 2")


def test_thresholds_in_sample(house):
    receipt = read_json(Path("runs/cut/a/cv.json"))
    decision, metrics = receipt["decision"], receipt["metrics"]
    assert len({json.dumps(cut) for cut in decision["by_fold"].values()}) > 1, "nothing is planted"
    in_sample = decision | {"by_fold": {str(k): decision["cuts"] for k in range(3)}}
    change("cut/a/cv.json", decision=in_sample, metrics=metrics | {"score": metrics["in_sample"]})
    found("cut/blend", "member cut/a: the cuts of fold", "but of all rows: it was fitted in-sample")


def test_a_score_in_sample(house):
    metrics = read_json(Path("runs/cut/a/cv.json"))["metrics"]
    change("cut/a/cv.json", metrics=metrics | {"score": metrics["in_sample"]})
    assert metrics["score"] != metrics["in_sample"], "nothing was planted"
    found("cut/a", f"its score {metrics['in_sample']:.6f} is not what its predictions give")


def test_a_predictor_fitted_on_its_own_fold(house):
    table, fits = the_table(), read_json(Path("runs/toy/l/cv.json"))["fits"]
    fits["predictor"]["1"] = digest(*table.ids[table.scored])
    change("toy/l/cv.json", fits=fits)
    found("toy/l", "cv.json: the predictor of fold 1 was not fitted on the other folds' rows")


def test_rows_moved_without_an_adopted_rule(house):
    assert not read_json(Path("runs/cut/l/cv.json"))["adopted"]
    edit("cut/l/fold1/test.npy", lambda test: test + 1e-4)
    found("cut/l", "nothing was adopted, and yet its predictions are not those of cut/blend")


# Files and papers.


@pytest.mark.parametrize(
    "name", ["fold1/oof.npy", "fold1/model.safetensors", "fold1/rows.npy", "fold1/fold.json", "oof.npy"]
)
def test_swapped_file(name, house):
    shutil.copy(f"runs/toy/b/{name}", f"runs/toy/a/{name}")
    if name == "fold1/rows.npy":
        np.save("runs/toy/a/fold1/rows.npy", np.arange(3, dtype=np.int32))
    found("toy/top", f"runs/toy/a/{name}: is not what its receipt says")
    Path(f"runs/toy/a/{name}").unlink()
    found("toy/top", f"runs/toy/a/{name}: is missing")


def test_swapped_and_signed_predictions(house):
    edit("toy/a/oof.npy", lambda oof: np.load("runs/toy/b/oof.npy"))
    found("toy/a", "oof.npy: rows of fold 0 are not the predictions of model 0, which never saw them")
    edit("toy/b/test.npy", lambda test: np.load("runs/toy/b/fold0/test.npy"))
    found("toy/b", "test.npy: is not the mean of its models' predictions")
    edit("toy/b/fold1/train.npy", lambda train: train + 0.01)
    found("toy/b", "toy/b/fold1: train.npy and oof.npy predict its own rows differently")


def test_swapped_and_signed_weights(house):
    shutil.copy("runs/toy/b/fold1/model.safetensors", "runs/toy/a/fold1/model.safetensors")
    sign("toy/a")
    found("toy/a", "toy/a/fold1: model.safetensors is of another fit than the receipt")


@pytest.mark.parametrize(
    "what, name", [("fold_map", "fold map"), ("rows", "row ids"), ("test", "test set"), ("classes", "class order")]
)
def test_members_of_another_fold_map(what, name, house):
    change("toy/x/cv.json", **{what: ["dog", "cat", "bee", "ant"] if what == "classes" else "other"})
    found("toy/top", f"member toy/x -> runs/toy/x/cv.json: was made for another {name} than that of today")


def test_only_initial_weights_may_be_of_another_test_set(house):
    change("far/a/cv.json", test="other")
    assert findings("toy/x") == []
    found("far/a", "runs/far/a/cv.json: was made for another test set than that of today")


def test_a_lost_model(house):
    receipt = read_json(Path("runs/toy/a/cv.json"))
    change("toy/a/cv.json", outputs={name: known for name, known in receipt["outputs"].items() if "fold2" not in name})
    found("toy/a", "cv.json: has not one model for each of the folds [0, 1, 2]")
    receipt = read_json(Path("runs/toy/b/fold0/fold.json"))
    change("toy/b/fold0/fold.json", outputs={n: h for n, h in receipt["outputs"].items() if "rows" not in n})
    found("toy/b", "toy/b/fold0: has no rows.npy: nothing proves what it trained on")


def test_a_cycle(house):
    parent = {"role": "member", "run": "toy/top"}
    change("toy/blend/cv.json", parents=[parent])
    change("toy/top/cv.json", parents=[parent | {"run": "toy/blend"}])
    with pytest.raises(UserError, match="cycle"):
        findings("toy/top")
