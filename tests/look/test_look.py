"""Whole folders: the contract that comes out, proved by reading it."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import IDS, competition, picture, table

from pipeline.competitions.submission import fill, read_back, read_format
from pipeline.competitions.table_of_images import read
from pipeline.look.look import look, prove
from pipeline.look.words import settings, to_toml
from pipeline.scoring.metrics import METRICS
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.section import validate
from pipeline.store.toml import read_toml
from pipeline.tasks import TASKS

AB = ["a", "b", "c"] * 20


def contract(root):
    """Look, prove, and return the contract as it is read back from its text."""
    found = prove(look(root), Path("competition.toml"))
    assert "submission.format" in {f.key for f in found.findings}
    path = root.parent / "written.toml"
    path.write_text(to_toml(["what"], found.findings))
    assert read_toml(path) == settings(found.findings)
    return settings(found.findings), found


def raw(root, **more):
    config = validate(Competition, contract(root)[0] | more, root)
    return read(config, root)


DIALECTS = {
    "comma": {},
    "semicolon": {"sign": ";"},
    "tab": {"sign": "\t"},
    "bom": {"bom": True},
    "quoted": {"quote": True},
    "crlf": {"end": "\r\n"},
    "all at once": {"sign": ";", "bom": True, "quote": True, "end": "\r\n"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("ending, pattern", [("", "{split}/{id}.png"), (".png", "{split}/{id}")])
def test_dialects(dialect, ending, pattern, tmp_path):
    root = competition(tmp_path / "c", AB, ending=ending, **DIALECTS[dialect])
    found, _ = contract(root)
    assert found["images"] == {"pattern": pattern, "channels": "rgb"}
    assert {k: v for k, v in found.items() if isinstance(v, str)} == {
        "task": "multiclass", "metric": "accuracy", "id": "id", "target": "label",
    }  # fmt: skip
    rows = raw(root)
    assert rows.ids.tolist() == [i + ending for i in IDS[:90]]
    assert rows.classes == ["a", "b", "c"]
    assert rows.y[:60, 0].tolist() == [0, 1, 2] * 20


@pytest.mark.parametrize("name", ["Id", "image", "filename", "image_id", "StudyInstanceUID"])
def test_id_columns(name, tmp_path):
    root = competition(tmp_path / "c", AB, header=(name, "label"))
    assert contract(root)[0]["id"] == name


def test_index_column_and_others_are_no_target(tmp_path):
    root = competition(tmp_path / "c", AB)
    rows = [(n, i, label) for n, (i, label) in enumerate(zip(IDS[:60], AB, strict=True))]
    table(root / "train.csv", ("", "id", "label"), rows)
    found, _ = contract(root)
    assert (found["id"], found["target"]) == ("id", "label")
    assert "metadata" not in found


PLACES = {
    "flat": ("{split}/{id}.png", {"pattern": "{split}/{id}.png"}),
    "folders named like Kaggle's": ("{split}_images/{id}.jpg", {"pattern": "{split}_images/{id}.jpg"}),
    "images inside": ("{split}/images/{id}.jpg", {"pattern": "{split}/images/{id}.jpg"}),
    "one folder": ("images/{id}.jpg", {"pattern": "images/{id}.jpg"}),
    "nested by the id": ("{split}/{a}/{b}/{id}.png", {"pattern": "{split}/**/{id}.png"}),
    "a folder a row": ("{split}/{id}/scan.png", {"pattern": "{split}/{id}/scan.png"}),
    "suffix": ("{split}/{id}_x.png", {"pattern": "{split}/{id}_x.png"}),
    "the id twice": ("stage1_{split}/{id}/images/{id}.png", {"pattern": "stage1_{split}/{id}/images/{id}.png"}),
    "colours": (
        ["{split}/{id}_green.png", "{split}/{id}_red.png", "{split}/{id}_blue.png"],
        {"pattern": "{split}/{id}_{channel}.png", "channel": ["red", "green", "blue"]},
    ),
    "sites and channels": (
        [f"{{split}}/{{id}}_s{s}_w{w}.png" for s in (1, 2) for w in (1, 2, 10)],
        {"pattern": "{split}/{id}_s{view}_w{channel}.png", "view": ["1", "2"], "channel": ["1", "2", "10"]},
    ),
    "slices": (
        [f"{{split}}/{{id}}/{s}.png" for s in range(1, 12)],
        {"pattern": "{split}/{id}/{view}.png", "view": [str(s) for s in range(1, 12)]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_places(place, tmp_path):
    image, want = PLACES[place]
    root = competition(tmp_path / "c", AB, image=image)
    several = isinstance(image, list)
    found, _ = contract(root)
    assert {k: v for k, v in found["images"].items() if k != "channels"} == want
    if not several:
        want_paths = [
            image.format(split="test" if n >= 60 else "train", id=i, a=i[:2], b=i[2:4]) for n, i in enumerate(IDS[:90])
        ]
        assert raw(root).paths.tolist() == want_paths


def test_other_names_of_the_splits(tmp_path):
    root = competition(tmp_path / "c", AB)
    (root / "train").rename(root / "learn")
    (root / "test").rename(root / "evaluate")
    found, _ = contract(root)
    assert found["images"] == {"pattern": "{split}/{id}.png", "train": "learn", "test": "evaluate", "channels": "rgb"}


def test_same_numbers_in_train_and_test(tmp_path):
    numbers = [str(n) for n in range(1, 61)]
    root = competition(tmp_path / "c", AB, ids=numbers * 2, test=60)
    assert contract(root)[0]["images"]["pattern"] == "{split}/{id}.png"
    rows = raw(root)
    assert rows.paths.tolist() == [f"{split}/{n}.png" for split in ("train", "test") for n in numbers]


def test_numbered_slices_of_numbered_rows(tmp_path):
    numbers = [str(n) for n in range(1, 91)]
    root = competition(tmp_path / "c", AB, ids=numbers, image=["{split}/{id}/1.png", "{split}/{id}/2.png"])
    found, _ = contract(root)
    assert found["images"] == {"pattern": "{split}/{id}/{view}.png", "view": ["1", "2"], "channels": "rgb"}


def test_slices_that_some_rows_lack_are_told(tmp_path):
    root = competition(tmp_path / "c", AB, image=["{split}/{id}/1.png", "{split}/{id}/2.png"])
    picture(root / "train" / IDS[3] / "3.png")
    found, looked = contract(root)
    assert found["images"]["view"] == ["1", "2"]
    pattern = next(f for f in looked.findings if f.key == "images.pattern")
    assert "some rows have more files than these" in pattern.words
    assert not pattern.sure


def test_copies_in_another_folder_are_no_views(tmp_path):
    root = competition(tmp_path / "c", AB, image=["{split}_512/{id}.png", "{split}_1024/{id}.png"])
    found, looked = contract(root)
    assert found["images"]["pattern"] in ("{split}_512/{id}.png", "{split}_1024/{id}.png")
    pattern = next(f for f in looked.findings if f.key == "images.pattern")
    assert "every id has 2 images" in pattern.words
    assert not pattern.sure


def test_masks_beside_the_images_are_no_channel(tmp_path):
    root = competition(tmp_path / "c", AB, image=["{split}/images/{id}.png", "{split}/masks/{id}.png"])
    assert contract(root)[0]["images"]["pattern"] == "{split}/images/{id}.png"


def test_mixed_endings(tmp_path):
    root = competition(tmp_path / "c", AB)
    for i in IDS[:90:3]:
        for split in ("train", "test"):
            if (root / split / f"{i}.png").exists():
                (root / split / f"{i}.png").rename(root / split / f"{i}.jpeg")
    (root / "train" / f"{IDS[0]}.json").write_text("{}")
    assert contract(root)[0]["images"]["pattern"] == "{split}/{id}.*"
    assert raw(root).paths[0] == f"train/{IDS[0]}.jpeg"
    picture(root / "train" / f"{IDS[1]}.jpg")
    with pytest.raises(UserError, match=rf"id '{IDS[1]}' has 2 images .* that fits .*train/{IDS[1]}\.\*"):
        prove(look(root), Path("competition.toml"))


@pytest.mark.parametrize("ending", ["", ".png"])
def test_class_folders(ending, tmp_path):
    root = tmp_path / "c"
    for name in ("cat", "big dog"):
        for n in range(20):
            picture(root / "train" / name / f"{n}.png", channels=1)
    for n in range(10):
        picture(root / "test" / f"{n}.png", channels=1)
    table(root / "sample_submission.csv", ("file", "kind"), [(f"{n}{ending}", "cat") for n in range(10)])
    found, looked = contract(root)
    assert found == {
        "id": "file", "train": "train/*/*", "target": "kind", "task": "binary", "metric": "accuracy",
        "images": {"pattern": "{split}/{id}" + ("" if ending else ".png"), "channels": "grey"}, "folds": {"n": 5},
    }  # fmt: skip
    rows = raw(root)
    assert rows.classes == ["big dog", "cat"]
    assert len(rows.ids) == 50
    assert rows.ids[0] == f"big dog/0{ending}"
    assert [path.split("/")[1] for path in rows.paths[:40]] == ["big dog"] * 20 + ["cat"] * 20
    assert rows.y[:40, 0].tolist() == [0] * 20 + [1] * 20
    assert looked.rows == 40


def test_unlabelled_images_masks_and_rows_that_are_missing(tmp_path):
    root = competition(tmp_path / "c", AB)
    for n in range(7):
        picture(root / "unlabelled_images" / f"u{n}.png")
    picture(root / "masks" / f"{IDS[0]}.png")
    picture(root / "train" / "nobody.png")
    found, looked = contract(root)
    assert found["unlabelled"] == "unlabelled_images/*"
    assert "1 images in train/ have no row in any table: left alone" in looked.notes
    assert "1 images in masks/ look like masks: left alone" in looked.notes


@pytest.mark.parametrize(
    "channels, ending, dtype, want",
    [
        (1, ".png", np.uint8, {"channels": "grey"}),
        (3, ".png", np.uint8, {"channels": "rgb"}),
        (4, ".png", np.uint8, {"channels": "rgba"}),
        (1, ".png", np.uint16, {"channels": "grey", "depth": 16}),
        (3, ".tif", np.uint16, {"channels": "rgb", "depth": 16}),
        (5, ".npy", np.uint8, {"channels": 5}),
    ],
)
def test_kinds_of_images(channels, ending, dtype, want, tmp_path):
    root = competition(tmp_path / "c", AB, image=[])
    for n, i in enumerate(IDS[:90]):
        picture(root / ("test" if n >= 60 else "train") / f"{i}{ending}", channels, 16 + n % 3, dtype)
    found, looked = contract(root)
    assert {k: v for k, v in found["images"].items() if k != "pattern"} == want
    words = " ".join(str(f) for f in looked.findings if f.key == "images.size")
    assert "smallest has 16 x 16 pixels, the median 17 x 17, the largest 18 x 18" in words


def test_test_table_and_metadata(tmp_path):
    root = competition(tmp_path / "c", AB)
    rng = np.random.default_rng(0)
    for name, ids in (("train", IDS[:60]), ("test", IDS[60:90])):
        frame = pd.DataFrame(
            {"id": ids, "age": rng.normal(50, 9, len(ids)).round(1), "sex": rng.choice(["f", "m"], len(ids))}
        )
        frame["text"] = [f"words {n}" for n in range(len(ids))]
        if name == "train":
            frame = frame.assign(label=AB, weight=rng.random(60) + 0.1, secret=1, fold=np.arange(60) % 3)
        frame.to_csv(root / f"{name}.csv", index=False)
    found, looked = contract(root)
    assert found["test"] == "test.csv"
    assert found["metadata"] == {"numeric": ["age"], "categorical": ["sex"]}
    assert found["weight"] == "weight"
    assert found["folds"] == {"column": "fold", "n": 5}
    assert any("left alone: 'secret'" in f.words for f in looked.findings)


def test_metadata_of_a_second_table(tmp_path):
    root = competition(tmp_path / "c", AB)
    rows = [(i, "fluo" if n % 2 else "bright") for n, i in enumerate(IDS[:90])]
    table(root / "plates.csv", ("file", "modality"), rows)
    assert contract(root)[0]["metadata"] == {"categorical": ["modality"], "table": "plates.csv", "id": "file"}


def test_group_of_ids_with_a_side(tmp_path):
    ids = [f"{n}{side}" for n in range(9001000, 9001045) for side in "LR"]
    root = competition(tmp_path / "c", ["0", "1", "2"] * 20, ids=ids, blank="0", header=("id_code", "diagnosis"))
    found, looked = contract(root)
    assert found["group"] == {"pattern": r"^(\d+)[LR]$"}
    assert (found["task"], found["metric"]) == ("ordinal", "quadratic_kappa")
    group = next(f for f in looked.findings if f.key == "group.pattern")
    assert group.sure
    assert "30 groups of 60 train rows, the largest has 2; no group is in train and test both" in group.words
    assert len(set(raw(root).groups)) == 45


def test_group_of_file_names_with_a_side(tmp_path):
    ids = [f"{n}_{side}.png" for n in range(45) for side in ("left", "right")]
    root = competition(tmp_path / "c", AB, ids=ids, image="{split}/{id}")
    assert contract(root)[0]["group"] == {"pattern": r"^(.+)[ _-](?i:left|right|l|r)\.\w+$"}
    assert sorted(set(raw(root).groups)) == sorted(str(n) for n in range(45))


def test_group_of_a_second_table_and_of_a_column(tmp_path):
    root = competition(tmp_path / "c", AB)
    rows = [(i, f"slide{n % 12}") for n, i in enumerate(IDS[:90])]
    table(root / "sources.csv", ("image", "source_image"), rows)
    found, looked = contract(root)
    assert found["group"] == {"table": "sources.csv", "column": "source_image", "id": "image"}
    assert next(f for f in looked.findings if f.key == "group.table").sure is False  # train and test share slides
    frame = pd.read_csv(root / "train.csv", dtype=str).assign(patient_id=[f"p{n // 3}" for n in range(60)])
    frame.to_csv(root / "train.csv", index=False)
    (root / "sources.csv").unlink()
    found, looked = contract(root)
    assert found["group"] == {"column": "patient_id"}
    assert not next(f for f in looked.findings if f.key == "group.column").sure


def test_the_class_is_no_group(tmp_path):
    ids = [f"kind{n % 12}_{n}" for n in range(90)]
    root = competition(tmp_path / "c", [f"k{n % 12}" for n in range(60)], ids=ids, blank="k0")
    assert "group" not in contract(root)[0]


SENT = {
    "label": (AB, ("id", "y"), "a", "each cell will hold one of 'a', 'b', 'c'; the sample has 'a'", True),
    "value": (
        [str(v / 7) for v in range(60)],
        ("id", "y"),
        "0.0",
        "each cell will hold a value; the sample has '0.0'",
        True,
    ),
    "probability": (
        ["no", "yes"] * 30,
        ("id", "y"),
        "0.5",
        "each cell will hold a probability, that of 'yes'; the",
        True,
    ),
    "joined": (["a", "b", "a|b"] * 20, ("id", "y"), "a", "labels of a row, joined by '|'", True),
    "a column a label": ([("0", "1"), ("1", "1")] * 30, ("id", "u", "v"), "0.5", "a probability in 2 columns", True),
    "whole numbers in the sample": (
        [("0", "1"), ("1", "1")] * 30,
        ("id", "u", "v"),
        "0",
        "a probability in 2 columns",
        False,
    ),
}


@pytest.mark.parametrize("case", SENT)
@pytest.mark.parametrize("sign", ",;")
def test_what_a_submission_will_hold(case, sign, tmp_path):
    labels, header, blank, said, sure = SENT[case]
    _, looked = contract(competition(tmp_path / "c", labels, header=header, blank=blank, sign=sign))
    sent = next(f for f in looked.findings if f.key == "submission.format")
    assert said in sent.words
    assert sent.sure is sure


def test_a_column_a_class_is_sent(tmp_path):
    root = competition(tmp_path / "c", AB)
    table(root / "sample_submission.csv", ("id", "c", "a", "b"), [(i, 0.3, 0.3, 0.3) for i in IDS[60:90]])
    found, looked = contract(root)
    assert (found["target"], found["metric"]) == ("label", "log_loss")
    assert any("a probability in 3 columns" in f.words for f in looked.findings)


def test_a_submission_keeps_header_and_ids_of_a_semicolon_sample(tmp_path):
    root = competition(tmp_path / "c", AB, sign=";", bom=True, end="\r\n", header=("Id", "the label"), ending=".png")
    config = validate(Competition, contract(root)[0], root)
    form = read_format(config, TASKS["multiclass"], METRICS["accuracy"], ["a", "b", "c"], root)
    ids = np.array([i + ".png" for i in IDS[60:90]])
    want = np.arange(30) % 3
    fill(form, ids, np.eye(3)[want], want).to_csv(tmp_path / "sent.csv", index=False)
    lines = (tmp_path / "sent.csv").read_text().splitlines()
    assert lines[:2] == ["Id,the label", f"{ids[0]},a"]
    assert read_back(form, tmp_path / "sent.csv", tmp_path / "sent.csv").tolist() == want.tolist()


def test_a_sample_that_holds_no_class_is_told(tmp_path):
    _, looked = contract(competition(tmp_path / "c", AB, blank="a 0.5"))
    assert next(f for f in looked.findings if f.key == "submission.format").sure is False


def test_images_named_by_several_columns_are_refused(tmp_path):
    root = competition(tmp_path / "c", AB)
    frame = pd.read_csv(root / "train.csv").assign(
        id=[f"e{n // 10}_{n % 10}" for n in range(60)], plate=[f"e{n // 10}" for n in range(60)]
    )
    for n, i in enumerate(IDS[:60]):
        (root / f"train/e{n // 10}").mkdir(exist_ok=True)
        (root / f"train/{i}.png").rename(root / f"train/e{n // 10}/{n % 10}.png")
    frame.to_csv(root / "train.csv", index=False)
    with pytest.raises(
        UserError, match="'plate' names the images, but 'e0' has several rows: keep one row an id, or link"
    ):
        look(root)


def test_images_that_nothing_reads_want_a_decoder(tmp_path):
    root = competition(tmp_path / "c", AB, image=[])
    for n, i in enumerate(IDS[:90]):
        path = root / ("test" if n >= 60 else "train") / f"{i}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"DICM")
    found, looked = contract(root)
    assert found["images"] == {"pattern": "{split}/{id}.dcm"}
    assert "they need images.decoder" in next(f for f in looked.findings if f.key == "images.channels").words


def test_some_images_that_cannot_be_read_are_told(tmp_path):
    root = competition(tmp_path / "c", AB)
    (root / "train" / f"{IDS[0]}.png").write_bytes(b"no")
    _, looked = contract(root)
    assert any("1 of 90 images looked at cannot be read" in f.words and not f.sure for f in looked.findings)


def test_train_and_test_of_other_endings(tmp_path):
    root = competition(tmp_path / "c", AB)
    for path in [*(root / "test").iterdir()]:
        path.rename(path.with_suffix(".jpg"))
    assert contract(root)[0]["images"]["pattern"] == "{split}/{id}.*"
    assert raw(root).paths[-1] == f"test/{IDS[89]}.jpg"


def test_places_that_no_pattern_leads_to_are_refused(tmp_path):
    root = competition(tmp_path / "c", AB)
    for path in [*(root / "test").iterdir()]:
        path.rename(root / path.name)
    with pytest.raises(UserError, match="one images.pattern cannot lead to both"):
        look(root)
    for path in [*(root / "train").iterdir()][:30]:
        path.rename(path.with_stem(path.stem + "_x"))
    with pytest.raises(UserError, match=r"no one pattern gives every id an image: '.* \(30 ids\)'"):
        look(root)


@pytest.mark.parametrize(
    "places, said",
    [
        (["{split}/{id}_a1x_b2y_c3z.png"] * 1, None),
        ([f"{{split}}/{{id}}_{a}_{b}_{c}.png" for a in "12" for b in "34" for c in "56"], "every id has 8 images"),
        ([f"{{split}}/{{id}}_{x}.png" for x in ("1_1", "1_2", "2_1")], "every id has 3 images"),
        ([f"{{split}}/{{id}}{x}.png" for x in ("_front", "_left_side")], None),
    ],
)
def test_files_a_row_that_are_no_grid_are_told(places, said, tmp_path):
    root = competition(tmp_path / "c", AB, image=places)
    looked = look(root)
    pattern = next(f for f in looked.findings if f.key == "images.pattern")
    if said:
        assert said in pattern.words
        assert not pattern.sure
        assert "{view}" not in pattern.value
    else:
        assert pattern.value in (places[0], "{split}/{id}_{view}.png")


def test_class_folders_without_test_images(tmp_path):
    root = tmp_path / "c"
    for name in ("cat", "dog"):
        picture(root / "train" / name / "1.png")
    table(root / "sample_submission.csv", ("id", "label"), [(5, "cat")])
    with pytest.raises(UserError, match="has no images outside train: the test images are missing"):
        look(root)
    table(root / "sample_submission.csv", ("id", "label"), [])
    with pytest.raises(UserError, match="has no rows: there is nothing to predict"):
        look(root)


def test_class_folders_of_mixed_endings(tmp_path):
    root = tmp_path / "c"
    for n in range(20):
        picture(root / "train" / ("cat", "dog")[n % 2] / f"{n}.{('png', 'jpg')[n % 3 == 0]}")
    picture(root / "test/5.png")
    table(root / "sample_submission.csv", ("id", "label"), [(5, "cat")])
    assert contract(root)[0]["images"]["pattern"] == "{split}/{id}.*"
    assert raw(root).ids.tolist()[:2] == ["cat/0", "cat/10"]


def test_a_sample_with_another_header_and_name(tmp_path):
    root = competition(
        tmp_path / "c", [("1", "0", "0"), ("0", "1", "0"), ("0", "0", "1")] * 20, header=("id", "u", "v", "w")
    )
    (root / "sample_submission.csv").unlink()
    table(root / "sampleSubmission.csv", ("id", "predicted"), [(i, "u") for i in IDS[60:90]])
    found, looked = contract(root)
    assert found["target"] == ["u", "v", "w"]
    assert found["submission"] == {"sample": "sampleSubmission.csv"}
    assert not next(f for f in looked.findings if f.key == "target").sure
    assert (found["task"], found["metric"]) == ("multiclass", "accuracy")
    assert any("each cell will hold one of 'u', 'v', 'w'" in f.words for f in looked.findings)


REAL = {
    "seedlings": {"task": "multiclass", "id": "file", "target": "species", "unlabelled": "unlabelled_images/*",
                  "images": {"pattern": "{split}_images/{id}", "channels": "rgb"}},
    "knee-mini": {"task": "ordinal", "id": "id_code", "target": "diagnosis", "metric": "quadratic_kappa",
                  "images": {"pattern": "{split}_images/{id}.png", "channels": "grey"},
                  "group": {"pattern": r"^(\d+)[LR]$"}},
    "blood-tiles": {"task": "multilabel", "id": "image", "target": "labels", "separator": " ",
                    "images": {"pattern": "{split}_images/{id}", "channels": "rgb"},
                    "group": {"table": "sources.csv", "column": "source_image"}},
    "nuclei-tiles": {"task": "segmentation", "id": "id", "target": "rle_mask", "metric": "tgs_precision",
                     "images": {"pattern": "{split}/images/{id}.png", "channels": "rgb"}, "masks": {"order": "column"},
                     "group": {"table": "tiles.csv", "column": "source_image"}},
}  # fmt: skip


@pytest.mark.skipif("PODIUM_DATA" not in os.environ, reason="PODIUM_DATA is not set")
@pytest.mark.parametrize("name", [*REAL, "omniglot-small1"])
def test_real_folders(name, tmp_path):
    import zipfile

    with zipfile.ZipFile(Path(os.environ["PODIUM_DATA"]) / f"{name}.zip") as archive:
        archive.extractall(tmp_path)
    if name in REAL:
        found, looked = contract(tmp_path / name)
        assert {key: found[key] for key in REAL[name]} == REAL[name]
        assert looked.symmetry == ("hflip" if name == "knee-mini" else "d4")
        return
    with pytest.raises(UserError, match=r"has no train.csv .* found images.csv \(image, alph"):
        look(tmp_path / name)
