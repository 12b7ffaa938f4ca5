"""The table of record: holdout, repeats, blocks in time, near copies."""

import json
import logging

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from house import make_competition, prepare, stage
from safetensors.torch import save_file

from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.table import half_of, read_table


def table():
    files = CompetitionFiles("toy")
    return read_table(files, read_table_facts(files))


def receipt(house):
    return json.loads((house / "folds/toy.json").read_text())


def recolumn(data, name, values):
    frame = pd.read_csv(data / "train.csv", dtype=str, keep_default_na=False)
    frame.assign(**{name: values}).to_csv(data / "train.csv", index=False)


def test_a_holdout_is_of_whole_groups_and_in_no_fold(house):
    make_competition(house, "multiclass", extra="holdout = 0.2\n[group]\npattern = '^i(..)'\n")
    # Ten rows a group: six groups in all.
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text().replace("'^i(..)'", "'^i..(.)'"))
    prepare()
    made, facts = table(), receipt(house)
    held = made.holdout
    assert len(held) == 12
    assert facts["rows"] == {"train": 60, "test": 24, "each_fold": facts["rows"]["each_fold"], "holdout": 12}
    assert sum(facts["holdout"].values()) == 12
    assert sum(map(sum, facts["balance"].values())) == 48
    assert not set(made.groups[held]) & set(made.groups[made.scored])
    assert not np.isin(held, np.r_[made.scored, made.test]).any()
    assert set(pd.read_csv("folds/toy.csv")["fold"]) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("shift", ["brighter", "upside down", "encoded"])
def test_a_holdout_like_test_is_of_rows_that_look_so(house, shift):
    more = 'holdout = 0.1\nholdout_like = "test"\n'
    if shift == "encoded":
        more += '[folds.encoder]\nname = "test_resnet"\nweights = "e.safetensors"\nsize = 32\n'
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), "e.safetensors")
    data, rng = make_competition(house, "multiclass", extra=more), np.random.default_rng(0)
    like = np.flatnonzero(np.arange(60) % 4 == 0)
    for name in [*(f"train/i{j:03d}" for j in like), *(f"test/i{j:03d}" for j in range(60, 84))]:
        image = cv2.imread(str(data / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        noisy = rng.integers(100, 255, image.shape).astype(np.uint8)
        changed = {"brighter": image // 2 + 120, "upside down": np.where(np.arange(12) < 6, noisy, image)}
        cv2.imwrite(str(data / f"{name}.png"), changed.get(shift, changed["upside down"]).astype(np.uint8))
    prepare()
    made = table()
    assert len(made.holdout) == 6
    assert np.isin(made.holdout, like).all()
    before = (house / "folds/toy.csv").read_bytes()
    (house / "folds/toy.csv").unlink()
    stage("folds", "toy")
    assert (house / "folds/toy.csv").read_bytes() == before


def test_no_model_learns_from_the_holdout(house):
    make_competition(house, "multiclass", extra="holdout = 0.1\n")
    prepare()
    stage("train", "toy/a")
    held, files = table().holdout, RunFiles("toy/a")
    assert len(held) == 6
    for k in range(3):
        rows = read_npy(files.fold(k).rows)
        assert len(rows) == 36
        assert not np.isin(rows, held).any()
    assert len(read_npy(files.oof)) == 54
    stage("audit", "toy/a")


def test_the_holdout_is_scored_by_models_and_blends_and_each_look_is_counted(house):
    make_competition(house, "multiclass", extra="holdout = 0.2\n")
    prepare()
    stage("train", "toy/a")
    stage("train", "toy/b")
    stage("ensemble", "toy/blend")
    truth, looks = table().y[table().holdout, 0], []
    for run in ("toy/a", "toy/b", "toy/blend"):
        files = RunFiles(run)
        said, p = json.loads(files.receipt.read_text())["metrics"]["holdout"], read_npy(files.holdout)
        assert p.shape == (12, 4)
        assert said["score"] == pytest.approx((p.argmax(1) == truth).mean())
        assert said["n"] == 12
        if run == "toy/blend":
            how = json.loads(files.receipt.read_text())["weights"]
            parts = [weight * read_npy(RunFiles(member).holdout) for member, weight in how.items()]
            assert np.allclose(p, np.sum(parts, 0), atol=1e-6)
        else:
            assert np.allclose(p, np.mean([read_npy(files.fold(k).holdout) for k in range(3)], 0), atol=1e-6)
        looks.append(said["looks"])
    assert looks == [1, 2, 3]
    # The same predictions again are no new look.
    for name in ("a", "blend"):
        RunFiles(f"toy/{name}").receipt.unlink()
    stage("train", "toy/a")
    stage("ensemble", "toy/blend")
    assert json.loads(RunFiles("toy/blend").receipt.read_text())["metrics"]["holdout"]["looks"] == 3
    assert len((house / "folds/toy.looks.csv").read_text().splitlines()) == 4
    stage("submit", "toy/blend")


def test_students_in_halves_predict_the_holdout(house):
    make_competition(house, "multiclass", extra="holdout = 0.2\n")
    configs = house / "configs/toy"
    (configs / "p.toml").write_text('stage = "pseudo"\nrun = "a"\nquota = 0.5\n')
    (configs / "s.toml").write_text('base = "a"\npseudo = "p"\nepochs = 1\n')
    prepare()
    for name, run in (("train", "a"), ("pseudo", "p"), ("train", "s")):
        stage(name, f"toy/{run}")
    held, files = table().holdout, RunFiles("toy/s")
    half = half_of(table().ids[held]) == 1
    for k in range(3):
        first, second = (read_npy(files.fold(k).half(h).holdout) for h in (0, 1))
        assert (read_npy(files.fold(k).holdout) == np.where(half[:, None], first, second)).all()
        assert not np.isin(read_npy(files.fold(k).half(0).rows), held).any()
    stage("audit", "toy/s")


@pytest.mark.parametrize("extra, columns", [("", 1), ("repeats = 3\n", 3), ("repeats = 3\nholdout = 0.2\n", 3)])
def test_repeats_are_further_columns(extra, columns, house):
    make_competition(house, "multiclass", extra=extra)
    prepare()
    made, committed = table(), pd.read_csv("folds/toy.csv")
    names = ["fold", "fold_1", "fold_2"][:columns]
    assert committed.columns.tolist() == ["id", *names]
    assert (committed[names].to_numpy() == made.repeats).all()
    assert (made.repeats[:, 0] == made.folds).all()
    below = made.repeats < 0
    assert (below == below[:, :1]).all()
    for r in range(columns):
        counts = [np.bincount(made.repeats[made.scored, r][made.y[made.scored, 0] == c], minlength=3) for c in range(4)]
        assert np.ptp(counts, axis=1).max() <= 1
        assert all((made.repeats[:, r] != made.repeats[:, s]).any() for s in range(r))
    assert made.fold_map() == read_table_facts(CompetitionFiles("toy"))["fold_map"]
    # The split that lies there is used again, to the byte.
    before = (house / "folds/toy.csv").read_bytes()
    (house / "cache/toy/table.csv").unlink()
    prepare()
    assert (house / "folds/toy.csv").read_bytes() == before


def test_repeat_0_is_the_split_without_repeats_and_the_maps_differ(house):
    make_competition(house, "multilabel")
    prepare()
    alone = table()
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text() + "repeats = 2\n")
    prepare()
    assert (table().folds == alone.folds).all()
    assert table().fold_map() != alone.fold_map()


def test_a_split_of_before_a_setting_was_there_is_kept(house):
    make_competition(house, "multiclass")
    prepare()
    path, facts = house / "folds/toy.json", receipt(house)
    rows = (house / "folds/toy.csv").read_text().splitlines()
    swapped = [rows[0], *[f"{line[:-1]}{(int(line[-1]) + 1) % 3}" if "-1" not in line else line for line in rows[1:]]]
    (house / "folds/toy.csv").write_text("\n".join(swapped) + "\n")
    for name in ("order", "gap", "near", "alike", "clusters", "repeats", "holdout"):
        del facts["settings"]["folds"][name]
    path.write_text(json.dumps(facts))
    prepare()
    assert (house / "folds/toy.csv").read_text().splitlines() == swapped


@pytest.mark.parametrize("form", ["number", "date"])
def test_blocks_in_time(form, house):
    when = np.random.default_rng(0).permutation(60)
    text = [str(w) if form == "number" else f"20{10 + w // 12}-{1 + w % 12:02d}-01" for w in when]
    recolumn(make_competition(house, "binary", extra='order = "taken"\nholdout = 0.2\n'), "taken", text)
    prepare()
    made = table()
    assert (made.folds[:60] == np.select([when < 16, when < 32, when < 48], [0, 1, 2], -2)).all()
    assert receipt(house)["method"] == "time"


def test_models_keep_a_gap_from_their_block(house):
    when = np.random.default_rng(0).permutation(60)
    recolumn(make_competition(house, "binary", extra='order = "taken"\ngap = 4.0\n'), "taken", when)
    prepare()
    stage("train", "toy/a")
    made, files = table(), RunFiles("toy/a")
    assert made.fold_map() == read_table_facts(CompetitionFiles("toy"))["fold_map"]
    for k, (first, last) in enumerate([(0, 19), (20, 39), (40, 59)]):
        far = np.flatnonzero((when < first - 4) | (when > last + 4))
        assert np.sort(read_npy(files.fold(k).rows)).tolist() == far.tolist()
    stage("audit", "toy/a")
    before = made.fold_map()
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text().replace("gap = 4.0", "gap = 2.0"))
    prepare()
    assert table().fold_map() != before
    assert (table().folds == made.folds).all()


def test_a_gap_that_leaves_nothing_to_learn_from_is_refused(house):
    recolumn(make_competition(house, "binary", extra='order = "taken"\ngap = 25\n'), "taken", np.arange(60))
    with pytest.raises(UserError, match=r"folds.gap = 25.0 leaves no row to train the model of fold 1: lower it"):
        prepare()


def test_all_models_keep_a_gap_from_the_holdout(house):
    when = np.random.default_rng(0).permutation(60)
    recolumn(make_competition(house, "binary", extra='order = "taken"\ngap = 3\nholdout = 0.2\n'), "taken", when)
    prepare()
    made = table()
    assert sorted(when[made.holdout]) == list(range(48, 60))
    for k in range(3):
        assert sorted(when[np.flatnonzero(made.shut_from([k])[:60] & (made.folds[:60] == 2))])[-3:] == [45, 46, 47]


def test_a_time_that_is_none_is_named(house):
    values = [f"2020-01-{1 + j % 28:02d}" for j in range(60)]
    values[7] = "soon"
    recolumn(make_competition(house, "binary", extra='order = "taken"\n'), "taken", values)
    with pytest.raises(UserError, match=r"row 9 has 'soon' in column 'taken': all must be numbers, or ISO dates"):
        prepare()


def test_a_given_holdout(house):
    data = make_competition(house, "binary", extra='column = "part"\n')
    recolumn(data, "part", np.r_[np.arange(50) % 2, np.full(10, -2)])
    prepare()
    assert table().holdout.tolist() == list(range(50, 60))


def copy_with_noise(data, source, target):
    image = cv2.imread(str(data / source), cv2.IMREAD_GRAYSCALE)
    noisy = image + np.random.default_rng(0).normal(0, 1.5, image.shape)
    cv2.imwrite(str(data / target), noisy.clip(0, 255).astype(np.uint8))


def test_near_copies_are_joined_and_told_in_test(house, caplog):
    data = make_competition(house, "multiclass", extra="near = 4\n")
    for source, target in (("train/i000.png", "train/i031.png"), ("train/i002.png", "train/i007.png")):
        copy_with_noise(data, source, target)
    copy_with_noise(data, "train/i004.png", "test/i070.png")
    (data / "train/i009.png").write_bytes(b"no image at all")
    with caplog.at_level(logging.INFO):
        prepare()
    made = table()
    assert made.folds[0] == made.folds[31]
    assert made.folds[2] == made.folds[7]
    assert len(np.unique(made.units[:60])) == 58
    assert receipt(house)["near_copies"] == {"rows": 4, "sets": 2, "largest": 2}
    assert "near copies: 4 rows joined in 2 sets, the largest of 2" in caplog.text
    assert "1 train row(s) have a near copy in test, for example 'i004'" in caplog.text


def test_look_alikes_are_joined_with_near_copies_of_them(house):
    data = make_competition(house, "multiclass", extra="alike = 0.001\nnear = 1\n")
    image = cv2.imread(str(data / "train/i000.png"), cv2.IMREAD_GRAYSCALE).astype(float)
    for name, how in (("train/i031", 0.7 * image), ("test/i070", image), ("train/i044", 0.8 * image + 30)):
        copy = how + np.random.default_rng(0).normal(0, 0.7, image.shape)
        cv2.imwrite(str(data / f"{name}.png"), copy.clip(0, 255).astype(np.uint8))
    cv2.imwrite(str(data / "train/i005.png"), np.full_like(image, 7))
    cv2.imwrite(str(data / "train/i006.png"), np.full_like(image, 8))
    (data / "train/i009.png").write_bytes(b"no image at all")
    prepare()
    made = table()
    assert made.folds[0] == made.folds[31] == made.folds[44]
    assert len(np.unique(made.units[:60])) == 58
    assert receipt(house)["near_copies"] == {"rows": 3, "sets": 1, "largest": 3}
    assert any("near copy in test" in said for said in receipt(house)["warnings"])


def test_clusters_of_looks_are_even_over_the_folds(house):
    data = make_competition(house, "binary", extra="clusters = 3\n")
    looks, rng = np.arange(60) % 3, np.random.default_rng(0)
    for j, look in enumerate(looks):  # bright on the left, above, or below
        image = rng.integers(0, 60, (12, 12)) + 120 * (np.indices((12, 12))[[1, 0, 0][look]] // 6 == [0, 0, 1][look])
        cv2.imwrite(str(data / f"train/i{j:03d}.png"), image.astype(np.uint8))
    prepare()
    made, facts = table(), receipt(house)
    for k in range(3):
        assert np.isin(np.bincount(looks[made.folds[:60] == k]), (6, 7)).all()
    assert [name for name in facts["balance"] if name.startswith("cluster")] == [f"cluster {c}" for c in range(3)]
    assert [sum(facts["balance"][f"cluster {c}"]) for c in range(3)] == [20, 20, 20]
    labels = np.array(list(facts["balance"].values()))[:2]
    assert np.ptp(labels, axis=1).max() <= 1
    assert made.y.shape[1] == 1, "clusters are no targets"


def test_near_copies_that_a_given_split_divides_are_told(house):
    data = make_competition(house, "multiclass", extra='near = 4\ncolumn = "part"\n')
    copy_with_noise(data, "train/i000.png", "train/i031.png")
    recolumn(data, "part", np.arange(60) % 2)
    prepare()
    assert "1 set(s) of near copies in two folds, for example 'i031'" in receipt(house)["warnings"]


@pytest.mark.parametrize(
    "extra, said",
    [
        ('method = "time"', 'folds.method = "time" needs folds.order'),
        ('method = "kfold"\norder = "x"', 'folds.order goes with folds.method = "time"'),
        ('method = "predefined"', 'folds.method = "predefined" needs folds.column'),
        ('method = "group"\ncolumn = "x"', 'folds.column goes with folds.method = "predefined"'),
        ('column = "x"\norder = "y"', "exclude each other"),
        ('order = "x"\nrepeats = 2', "has one form only"),
        ('column = "x"\nholdout = 0.1', "give the rows of the holdout the fold -2"),
        ('holdout_like = "test"', "needs folds.holdout, a share, and no folds.order"),
        ('holdout = 0.1\norder = "x"\nholdout_like = "test"', "needs folds.holdout, a share, and no folds.order"),
        ("holdout = 0.001", "0, or 0.01 to 0.5"),
        ("holdout = 0.6", "folds.holdout: Input should be less than or equal to 0.5"),
        ("near = -1", "folds.near: Input should be greater than or equal to 0"),
        ("near = 17", "folds.near: Input should be less than or equal to 16"),
        ("alike = 0.6", "folds.alike: Input should be less than or equal to 0.5"),
        ("clusters = -1", "folds.clusters: Input should be greater than or equal to 0"),
        ("clusters = 61", "folds.clusters = 61: there are 60 rows"),
        ("gap = 3.0", "folds.gap is a time between blocks: it needs folds.order"),
        ("repeats = 0", "folds.repeats: Input should be greater than or equal to 1"),
        ('method = "iterative"', '"iterative" does not fit a multiclass task'),
        ('method = "group"', "needs a .group. section"),
    ],
)
def test_contradictions_are_refused(extra, said, house):
    make_competition(house, "multiclass", extra=extra + "\n")
    with pytest.raises(UserError, match=said):
        prepare()
    assert not list(house.glob("folds/*"))


def test_rare_classes_are_told_one_a_line(house):
    data = make_competition(house, "multiclass")
    frame = pd.read_csv(data / "train.csv", dtype=str)
    frame.loc[:1, "target"] = "emu"
    frame.to_csv(data / "train.csv", index=False)
    prepare()
    (said,) = receipt(house)["warnings"]
    assert said.startswith("class 'emu' is missing from fold(s) [")
    assert said.endswith("it has 2 row(s) for 3 folds")


def test_more_classes_than_rows_a_fold_are_no_error(house):
    data = make_competition(house, "multiclass")
    frame = pd.read_csv(data / "train.csv", dtype=str)
    frame.assign(target=[f"c{j // 2:02d}" for j in range(60)]).to_csv(data / "train.csv", index=False)
    sample = pd.read_csv(data / "sample_submission.csv", dtype=str)
    sample.assign(target="c00").to_csv(data / "sample_submission.csv", index=False)
    prepare()
    facts = receipt(house)
    assert facts["rows"]["each_fold"] == [20, 20, 20]
    assert len(facts["warnings"]) == 21
    assert facts["warnings"][-1] == "so are 10 other classes from some fold"


def test_a_row_of_the_holdout_is_so_in_every_repeat(house):
    make_competition(house, "multiclass", extra="repeats = 2\n")
    (house / "folds").mkdir()
    rows = [f"i{j:03d},{j % 3},{-2 if j == 5 else j % 2}\n" for j in range(60)]
    (house / "folds/toy.csv").write_text("id,fold,fold_1\n" + "".join(rows))
    with pytest.raises(UserError, match=r"must be so in every column: fold, fold_1"):
        prepare()
