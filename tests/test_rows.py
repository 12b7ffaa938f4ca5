"""Rows that are more than one picture and one label, from folder to submission through the real Make targets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare, stage
from miniatures import atlas, patients, recursion

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest, digest_file, read_json, write_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import EXTRA, UNLABELLED, read_table


def table(name="toy"):
    files = CompetitionFiles(name)
    return read_table(files, read_table_facts(files))


def score(run):
    return read_json(RunFiles(run).receipt)["metrics"]["score"]


def contract(change, name="toy"):
    path = Path(f"configs/{name}/competition.toml")
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    "make_data, name, enough", [(recursion, "cells", 0.6), (atlas, "atlas", 0.08), (patients, "patients", -3.6)]
)
def test_miniature_to_submission(make_data, name, enough, make, house):
    data = make_data(house)
    Path(f"configs/{name}/tags.toml").write_text('stage = "tag"\nrun = "blend"\n')
    Path(f"configs/{name}/final.toml").write_text('stage = "lb"\nrun = "blend"\n')
    make("submit", f"COMP={name}", "NAME=final")
    make("tag", f"COMP={name}", "NAME=tags")
    assert "OK" in make("audit", f"COMP={name}", "NAME=final").stdout
    sent, sample = (
        pd.read_csv(path, dtype={"id": str})
        for path in (f"submissions/{name}/final.csv", data / "sample_submission.csv")
    )
    assert (sent["id"] == sample["id"]).all()
    ledger = pd.read_csv("submissions/ledger.csv")
    sign = -1 if name == "patients" else 1
    assert sign * ledger["private"][0] > enough


def test_views_may_be_missing_only_where_the_contract_says_so(house):
    data = recursion(house, 'missing = "skip"\n')
    for path in data.glob("train/P00_000_s2_*.png"):
        path.unlink()
    stage("data", "cells")
    stage("folds", "cells")
    first = table("cells")
    assert first.paths[0] == "train/P00_000_s1_w{channel}.png|"
    config = Path("configs/cells/a.toml")
    config.write_text(
        config.read_text().replace("epochs = 6", "epochs = 1").replace("[model]", '[model]\naggregate = "attention"')
    )
    stage("train", "cells/a")
    spare = (data / "train/P00_000_s1_w3.png").rename(data / "spare.png")
    with pytest.raises(UserError, match=r"'P00_000' has no image .*P00_000_s1_w3\.png: check images\.pattern"):
        prepare("cells")
    spare.rename(data / "train/P00_000_s1_w3.png")
    contract(lambda text: text.replace('missing = "skip"\n', ""), "cells")
    with pytest.raises(UserError, match=r"s2_w1\.png: check images.pattern, or set images.missing"):
        prepare("cells")


def test_metadata_is_worth_something(house):
    patients(house)
    prepare("patients")
    stage("train", "patients/a")
    contract(lambda text: text.replace('[metadata]\nnumeric = ["age"]\ncategorical = ["ward"]\n', ""), "patients")
    with_metadata = score("patients/a")
    prepare("patients")
    stage("train", "patients/a")
    assert score("patients/a") > with_metadata + 0.5  # rmse


def test_metadata_of_a_second_table(house):
    data = patients(house)
    frame = pd.concat([pd.read_csv(data / f"{split}.csv", dtype=str) for split in ("train", "test")])
    wards = frame.rename(columns={"id": "patient"})[["patient", "ward", "age"]].sample(frac=1, random_state=0)
    prepare("patients")
    here = table("patients").meta
    assert read_json(CompetitionFiles("patients").folds_receipt)["metadata"] == [
        "age", "ward=north", "ward=south", "ward=west",
    ]  # fmt: skip
    np.testing.assert_array_equal(here[:, 1:].sum(1), 1)
    np.testing.assert_array_equal(np.isnan(here[:, 0]), frame["age"].isna())
    wards.to_csv(data / "wards.csv", index=False)
    contract(lambda text: text.replace("[metadata]\n", '[metadata]\ntable = "wards.csv"\nid = "patient"\n'), "patients")
    prepare("patients")
    np.testing.assert_array_equal(table("patients").meta, here)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"age"', '"agee"', "has no column 'agee', which .metadata. names; did you mean 'age'"),
        ('"age"', '"ward"', "every column once"),
        ('numeric = ["age"]\ncategorical = ["ward"]', 'numeric = ["ward"]', "'ward', not a number"),
        ('categorical = ["ward"]', 'table = "no.csv"', "no.csv does not exist"),
    ],
)
def test_wrong_metadata_is_one_line(house, old, new, said):
    patients(house)
    contract(lambda text: text.replace(old, new), "patients")
    with pytest.raises(UserError, match=said) as caught:
        prepare("patients")
    assert "\n" not in str(caught.value)


def test_sample_weights_reach_the_table(house):
    patients(house)
    contract(lambda text: text.replace("[images]", 'weight = "w"\n[images]'), "patients")
    prepare("patients")
    frame = pd.read_csv("data/patients/train.csv")
    np.testing.assert_array_equal(table("patients").weights, [*frame["w"], *[1.0] * 30])
    frame.loc[3, "w"] = -1
    frame.to_csv("data/patients/train.csv", index=False)
    with pytest.raises(UserError, match="'p003' has -1"):
        prepare("patients")


@pytest.fixture
def wide(house):
    """The toy competition with twelve labelled rows from elsewhere and five pictures that nobody labelled."""
    data = make_competition(
        house, "multiclass", extra='[extra]\ntable = "more.csv"\npattern = "more/{id}.png"\n[group]\ncolumn = "group"\n'
    )
    contract(lambda text: text.replace("[images]", 'unlabelled = "spare/*.png"\n[images]'))
    train = pd.read_csv(data / "train.csv")
    train["group"] = [f"g{row % 20}" for row in range(60)]
    train.to_csv(data / "train.csv", index=False)
    rng = np.random.default_rng(3)
    for folder in ("more", "spare"):
        (data / folder).mkdir()
    more = pd.DataFrame({"id": [f"m{row}" for row in range(12)], "target": ["ant", "bee", "cat", "dog"] * 3})
    more["group"] = ["g0", "g0", *[f"h{row}" for row in range(10)]]
    more.to_csv(data / "more.csv", index=False)
    for i in more["id"]:
        cv2.imwrite(str(data / f"more/{i}.png"), rng.integers(0, 250, (12, 12)).astype(np.uint8))
    (data / "more/m5.png").write_bytes((data / "train/i007.png").read_bytes())
    for row in range(5):
        cv2.imwrite(str(data / f"spare/s{row}.png"), rng.integers(0, 250, (12, 12)).astype(np.uint8))
    prepare()
    return data


def test_extra_rows_are_trained_on_but_where_they_would_leak(wide):
    here = table()
    assert (here.folds == EXTRA).sum() == 12
    assert (here.folds == UNLABELLED).sum() == 5
    stage("train", "toy/a")
    fold_of = dict(zip(here.ids, here.folds, strict=True))
    for k in range(3):
        learnt = set(here.ids[np.load(RunFiles("toy/a").fold(k).rows)])
        theirs = {i for i in learnt if i.startswith("m")}
        # m0 and m1 share group g0 with i000, i020, i040; m5 is the picture of i007.
        barred = {"m0", "m1"} if fold_of["i000"] == k else set()
        barred |= {"m5"} if fold_of["i007"] == k else set()
        assert theirs == {f"m{row}" for row in range(12)} - barred
        assert learnt - theirs == {i for i in here.ids[here.scored] if fold_of[i] != k}
    assert np.load(RunFiles("toy/a").oof).shape == (60, 4)
    assert np.load(RunFiles("toy/a").test).shape == (29, 4)


def test_the_whole_chain_with_extra_and_unlabelled_rows(wide):
    for name, text in {
        "pseudo": 'stage = "pseudo"\nrun = "a"\n',
        "student": 'base = "a"\npseudo = "pseudo"\n',
        "soft": 'base = "a"\nteacher = "a"\n',
        "tags": 'stage = "tag"\nrun = "a"\n',
        "clean": 'base = "a"\ntags = "tags"\ndifficulty.suspect = "downweight"\n',
        "final": 'stage = "lb"\nrun = "student"\n',
    }.items():
        Path(f"configs/toy/{name}.toml").write_text(text)
    for step in (
        "train a", "pseudo pseudo", "train student", "train soft", "tag tags", "train clean", "lb final", "submit final",
        "audit final", "audit clean", "audit soft",
    ):  # fmt: skip
        name, run = step.split()
        if name == "audit":
            assert not audit(f"toy/{run}", refit).findings
        else:
            stage(name, f"toy/{run}")
    labels = pd.read_csv(RunFiles("toy/pseudo").pseudo, dtype={"id": str})
    assert labels["id"].str.startswith("spare/").any()
    sent = pd.read_csv("submissions/toy/final.csv")
    assert len(sent) == 24


def test_an_extra_row_that_leaks_is_found_by_the_audit(wide):
    stage("train", "toy/a")
    here = table()
    fold = int(here.folds[list(here.ids).index("i000")])
    files = RunFiles("toy/a").fold(fold)
    rows = np.load(files.rows)
    learnt = np.sort(np.append(rows, np.flatnonzero(here.ids == "m0"))).astype(np.int32)
    np.save(files.rows, learnt)
    said = {"trained_on": {"rows": len(learnt), "ids": digest(*here.ids[learnt])}}
    for path in (files.receipt, RunFiles("toy/a").receipt):  # a leak that the receipts tell of, no broken hash
        known = read_json(path) | said
        write_json(path, known | {"outputs": {name: digest_file(Path(name)) for name in known["outputs"]}})
    assert any("share a group or an image" in str(finding) for finding in audit("toy/a", refit).findings)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda d: d.joinpath("more.csv").write_text("id,target,group\ni001,ant,x\n"), "is a train or test row too"),
        (lambda d: d.joinpath("more.csv").write_text("id,target,group\nm0,eel,x\n"), "'eel', which is not among"),
        (lambda d: d.joinpath("more.csv").write_text("id,target,group\nm99,ant,x\n"), "'m99' has no image"),
        (lambda d: [path.unlink() for path in d.glob("spare/*")], "finds no file"),
    ],
)
def test_wrong_extra_rows_are_one_line(wide, spoil, said):
    spoil(wide)
    with pytest.raises(UserError, match=said):
        prepare()


@pytest.mark.parametrize(
    "lines, said",
    [
        ('[images]\npattern = "{split}/{id}_{channel}.png"', "images.channel lists the values"),
        ('[images]\nchannel = ["a"]', "images.channel lists the values"),
        ('[images]\nmissing = "skip"', "give images.view"),
        ('unlabelled = "x/*"\n[images]\npattern = "{id}{view}.png"\nview = ["1"]', "cannot be put together"),
        ("[images]\nchannels = 0", "channels"),
    ],
)
def test_contradictions_in_the_contract_are_one_line(house, lines, said):
    make_competition(house, "multiclass")
    head = 'task = "multiclass"\nmetric = "accuracy"\nid = "id"\ntarget = "target"\n'
    contract(lambda text: head + lines + "\n")
    with pytest.raises(UserError, match=said) as caught:
        stage("data", "toy")
    assert "\n" not in str(caught.value)


def test_own_decoder_that_fails_on_one_file(house, monkeypatch):
    make_competition(house, "multiclass")
    Path("own.py").write_text(
        "import cv2, numpy as np\n"
        "def read(data):\n"
        "    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)\n"
        "    if image.mean() < BOUND:\n"
        "        raise ValueError('too dark')\n"
        "    return image\n"
        "BOUND = 0\n"
    )
    monkeypatch.syspath_prepend(house)
    contract(lambda text: text.replace("[images]\n", '[images]\ndecoder = "own:read"\n'))
    prepare()
    stage("train", "toy/a")
    first = json.loads(RunFiles("toy/a").receipt.read_text())["fit_hash"]
    import own

    monkeypatch.setattr(own, "BOUND", 60)
    Path("own.py").write_text(Path("own.py").read_text().replace("BOUND = 0", "BOUND = 60"))
    with pytest.raises(UserError, match=r"own:read raises ValueError: too dark .*on_bad_image"):
        stage("train", "toy/a")
    assert json.loads(RunFiles("toy/a").receipt.read_text())["fit_hash"] == first


def test_stacker_with_metadata(make, house):
    """The nets are given no metadata here: it comes in through the stacker."""
    patients(house)
    for name in ("a", "b"):
        Path(f"configs/patients/{name}.toml").write_text(
            Path(f"configs/patients/{name}.toml").read_text().replace("[model]", "[model]\nmetadata = 1")
        )
    Path("configs/patients/stack.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "ridge"\n')
    Path("configs/patients/final.toml").write_text('stage = "lb"\nrun = "stack"\n')
    said = make("submit", "COMP=patients", "NAME=final").stderr
    assert "ridge stacker on 6 columns" in said
    assert "OK" in make("audit", "COMP=patients", "NAME=final").stdout
    alone = read_json(RunFiles("patients/stack").receipt)["metrics"]
    assert alone["score"] < min(alone["members"].values())
    files = RunFiles("patients/stack")
    oof = np.load(files.oof)
    oof[0] += 1
    np.save(files.oof, oof)
    known = read_json(files.receipt)
    write_json(files.receipt, known | {"outputs": {n: digest_file(Path(n)) for n in known["outputs"]}})
    assert any("stacker fitted without it" in str(finding) for finding in audit("patients/stack", refit).findings)


@pytest.mark.parametrize(
    "task, lines, said",
    [
        ("multiclass", 'method = "ridge"', 'has probabilities; use "logistic"'),
        ("ordinal", 'method = "logistic"', 'has values; use "ridge"'),
        ("multiclass", 'method = "boosted"\nspace = "logit"', "has no blend space"),
    ],
)
def test_wrong_stackers_are_one_line(house, task, lines, said):
    make_competition(house, task)
    Path("configs/toy/stack.toml").write_text(f'stage = "ensemble"\nmembers = ["a", "b"]\n{lines}\n')
    with pytest.raises(UserError, match=said):
        stage("ensemble", "toy/stack")


def test_other_extra_rows_are_another_run(wide):
    stage("train", "toy/a")
    before = np.load(RunFiles("toy/a").oof)
    path = wide / "more.csv"
    path.write_text(path.read_text().replace(",ant,", ",x,").replace(",bee,", ",ant,").replace(",x,", ",bee,"))
    prepare()
    stage("train", "toy/a")
    assert not np.array_equal(np.load(RunFiles("toy/a").oof), before)


def test_near_copies_among_extra_rows_do_not_leak(wide):
    here = table()
    for row in range(12):
        image = cv2.imread(str(wide / f"train/i{row:03d}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(wide / f"more/m{row}.png"), np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8))
    contract(lambda text: text.replace("[folds]\n", "[folds]\nnear = 6\n"))
    prepare()
    here = table()
    of = dict(zip(here.ids, here.folds, strict=True))
    for k in range(3):
        allowed = set(here.ids[here.labelled[here.foreign((k,))]])
        assert not any(f"m{row}" in allowed for row in range(12) if of[f"i{row:03d}"] == k)


def test_test_rows_have_the_groups_of_their_own_table(house):
    patients(house)
    contract(lambda text: text.replace("[metadata]", '[group]\ncolumn = "ward"\n[metadata]'), "patients")
    prepare("patients")
    here = table("patients")
    assert (here.groups[here.test] == pd.read_csv("data/patients/test.csv")["ward"]).all()


def test_weights_of_another_competition_are_looked_at_for_its_extra_rows(house):
    make_competition(house, "multiclass")
    data = make_competition(house, "multiclass", "other", extra='[extra]\ntable = "m.csv"\npattern = "m/{id}.png"\n')
    (data / "m").mkdir()
    rows = pd.read_csv("data/toy/train.csv")[:5].assign(id=[f"x{row}" for row in range(5)])
    rows.to_csv(data / "m.csv", index=False)
    for row in range(5):
        (data / f"m/x{row}.png").write_bytes(Path(f"data/toy/train/i{row:03d}.png").read_bytes())
    for path in (data / "train").glob("*.png"):  # else the two competitions are the same
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    for name in ("toy", "other"):
        prepare(name)
    stage("train", "other/a")
    Path("configs/toy/s.toml").write_text('base = "a"\ninit = "other/a"\n')
    with pytest.raises(UserError, match="has trained on 5 images that are scored here"):
        stage("train", "toy/s")


def test_metadata_is_measured_by_the_rows_of_the_fold_whatever_the_start(house):
    patients(house)
    prepare("patients")
    stage("train", "patients/a")
    Path("configs/patients/s.toml").write_text('base = "a"\ninit = "a"\nepochs = 1\n')
    stage("train", "patients/s")
    from safetensors.numpy import load_file

    for k in range(3):
        learnt = np.load(RunFiles("patients/s").fold(k).rows)
        state = load_file(RunFiles("patients/s").fold(k).model)
        np.testing.assert_allclose(state["beside.center"][0], np.nanmean(table("patients").meta[learnt, 0]), rtol=1e-5)


def test_frozen_features_with_metadata_are_tagged_and_foretold(house):
    patients(house)
    prepare("patients")
    Path("configs/patients/f.toml").write_text('base = "a"\nfit = "linear"\n')
    Path("configs/patients/tags.toml").write_text('stage = "tag"\nrun = "f"\n')
    Path("configs/patients/final.toml").write_text('stage = "lb"\nrun = "f"\n')
    for name, run in (("train", "f"), ("tag", "tags"), ("lb", "final")):
        stage(name, f"patients/{run}")
    assert np.isfinite(np.load(RunFiles("patients/f").fold(0).embeddings)).all()
