"""Whole folders of competitions that ask for masks: the contract that comes out, proved by drawing them."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from mask_house import rle

from pipeline.competitions.masks import draw_row
from pipeline.competitions.table_of_images import read
from pipeline.look.configs import starters
from pipeline.look.look import look, prove
from pipeline.look.words import settings, to_toml
from pipeline.masks.truth import kind_of, layers_of
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.store.section import validate
from pipeline.store.toml import read_toml

N, TEST, H, W = 24, 6, 18, 12
IDS = [f"{value:08x}" for value in np.random.default_rng(3).choice(2**32, N + TEST, replace=False)]
MANY = ["fish", "gravel", "sugar"]


def scene(classes=1, exclusive=False):
    """Bright boxes on a dark ground: masks C H W, and the images (each class of another brightness) they come from."""
    rng = np.random.default_rng(4)
    masks, images = [], []
    for row in range(N + TEST):
        label = np.zeros((H, W), int)
        for _ in range(0 if row == 3 else 2):
            top, left, kind = rng.integers(0, H - 5), rng.integers(0, W - 4), rng.integers(1, classes + 1 - exclusive)
            label[top : top + 5, left : left + 4] = kind
        layers = label == np.arange(0 if exclusive else 1, classes + 1 - exclusive)[:, None, None]
        masks.append(layers)
        images.append(np.uint8(rng.integers(0, 30, (H, W)) + label * (200 // classes)))
    return masks, images


def lay(root, images, pattern="{split}/images/{id}.png"):
    for row, (i, image) in enumerate(zip(IDS, images, strict=True)):
        save(root / pattern.format(split="train" if row < N else "test", id=i), image)
    return root


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def tables(root, train, sample=None):
    if train is not None:
        pd.DataFrame(train).to_csv(root / "train.csv", index=False)
    sample = {"id": IDS[N:], "rle_mask": "1 1"} if sample is None else sample
    pd.DataFrame(sample).to_csv(root / "sample_submission.csv", index=False)


def asked_of(names, form="joined"):
    """Return a sample of some classes: a row a class, whose ids are joined to it, or a column a class."""
    if form == "wide":
        return {"id": IDS[N:], **dict.fromkeys(names, "1 1")}
    pairs = [(i, name) for i in IDS[N:] for name in names]
    if form == "long":
        return {"id": [i for i, _ in pairs], "ClassId": [n for _, n in pairs], "rle": "1 1"}
    return {"id": [f"{i}_{n}" for i, n in pairs], "rle": "1 1"}


def contract(root):
    """Look, prove, write, read again; return the contract and the masks as it reads them."""
    found = prove(look(root), Path("competition.toml"))
    path = root.parent / "written.toml"
    path.write_text(to_toml(["what"], found.findings))
    assert read_toml(path) == settings(found.findings)
    config = validate(Competition, settings(found.findings), path)
    raw = read(config, root)
    assert sorted(raw.ids[raw.train].tolist()) == sorted(IDS[:N])
    kind = kind_of(config.masks)
    size = np.array([H, W])
    drawn = {
        raw.ids[row]: layers_of(draw_row(config, root, raw, row, size), len(raw.classes), kind)
        for row in np.flatnonzero(raw.train).tolist()
    }
    return settings(found.findings), [drawn[i] for i in IDS[:N]], found


def same(drawn, masks):
    return all((d == m).all() for d, m in zip(drawn, masks[:N], strict=True))


@pytest.mark.parametrize("order", ["column", "row"])
def test_one_column(order, tmp_path):
    masks, images = scene()
    root = lay(tmp_path / "c", images)
    tables(root, {"id": IDS[:N], "rle_mask": [rle(m[0], order) for m in masks[:N]]})
    groups = {
        "id": IDS,
        "source_image": [f"s{row // 2}" for row in range(N + TEST)],
        "depth": np.arange(N + TEST) * 1.5,
    }
    pd.DataFrame(groups).to_csv(root / "tiles.csv", index=False)
    found, drawn, said = contract(root)
    assert same(drawn, masks)
    assert found == {
        "task": "segmentation", "metric": "tgs_precision", "id": "id", "target": "rle_mask",
        "images": {"pattern": "{split}/images/{id}.png", "channels": "grey"}, "masks": {"order": order},
        "group": {"table": "tiles.csv", "column": "source_image"}, "folds": {"n": 5},
    }  # fmt: skip
    unsure = {f.key for f in said.findings if not f.sure}
    assert "metric" in unsure
    assert "masks.order" not in unsure


def test_large_images_are_no_tiles_of_salt(tmp_path):
    masks, images = scene()
    root = lay(tmp_path / "c", [cv2.resize(image, (200, 240)) for image in images])
    masks = [cv2.resize(m[0].astype(np.uint8), (200, 240)) for m in masks]
    tables(root, {"id": IDS[:N], "rle_mask": [rle(m) for m in masks[:N]]})
    assert prove(look(root), Path("competition.toml")).findings
    assert {f.key: f.value for f in look(root).findings}["metric"] == "dice"


def long(masks, ids=IDS[:N]):
    rows = [
        (i, name, rle(m)) for i, layers in zip(ids, masks, strict=False) for name, m in zip(MANY, layers, strict=True)
    ]
    return pd.DataFrame(rows, columns=["image_id", "ClassId", "EncodedPixels"])


def test_a_row_a_class(tmp_path):
    masks, images = scene(3)
    root = lay(tmp_path / "c", images)
    sample = {"image_id": np.repeat(IDS[N:], 3), "EncodedPixels": "1 1", "ClassId": np.tile(MANY, TEST)}
    tables(root, long(masks[:N])[lambda f: (f["EncodedPixels"] != "") | (f["ClassId"] == "fish")], sample)
    found, drawn, _ = contract(root)
    assert same(drawn, masks)
    assert found["masks"] == {"class": "ClassId", "order": "column"}
    assert (found["id"], found["target"], found["metric"]) == ("image_id", "EncodedPixels", "dice")


@pytest.mark.parametrize("ending", ["", ".png"])
@pytest.mark.parametrize("both", [True, False])
def test_ids_joined_to_classes(both, ending, tmp_path):
    masks, images = scene(3)
    root = lay(tmp_path / "c", images)
    table = long(masks[:N])
    name = "image_id"
    if both:
        name = "Image_Label"
        table[name] = table.pop("image_id") + ending + "_" + table.pop("ClassId")
        table = table[[name, "EncodedPixels"]]
    else:
        table["image_id"] += ending
    sample = {"Image_Label": [f"{i}{ending}_{c}" for i in IDS[N:] for c in MANY], "EncodedPixels": "1 1"}
    tables(root, table, sample)
    found = prove(look(root), Path("competition.toml"))
    keys = settings(found.findings)
    assert keys["masks"] == {"order": "column", "separator": "_"} | ({} if both else {"class": "ClassId"})
    assert keys["id"] == name
    config = validate(Competition, keys, root)
    raw = read(config, root)
    assert raw.ids[raw.test].tolist() == [i + ending for i in IDS[N:]]
    drawn = [layers_of(draw_row(config, root, raw, row, np.array([H, W])), 3, "classes") for row in range(N)]
    assert same(drawn, masks)


def test_a_row_an_object(tmp_path):
    masks, images = scene()
    root = lay(tmp_path / "c", images)
    rows = []
    for i, m in zip(IDS[:N], masks, strict=False):
        numbers = cv2.connectedComponents(m[0].astype(np.uint8), connectivity=4)[1]
        rows += [(i, rle(numbers == k)) for k in range(1, numbers.max() + 1)] or [(i, "")]
    tables(root, pd.DataFrame(rows, columns=["id", "rle_mask"]))
    found, drawn, _ = contract(root)
    assert same(drawn, masks)
    assert found["masks"] == {"objects": True, "order": "column"}
    assert found["metric"] == "dsb_precision"


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("pattern, high", [("train/masks/{id}.png", 255), ("masks/{id}_mask.png", 1)])
def test_mask_files(pattern, high, table, tmp_path):
    masks, images = scene()
    root = lay(tmp_path / "c", images)
    for i, m in zip(IDS[:N], masks, strict=False):
        save(root / pattern.format(id=i), m[0] * np.uint8(high))
    tables(root, {"id": IDS[:N], "depth": range(N)} if table else None)
    found, drawn, _ = contract(root)
    assert same(drawn, masks)
    assert found["masks"] == {"pattern": pattern}
    assert "target" not in found
    assert found.get("train") == (None if table else "train/images/*")
    assert found["metric"] == "tgs_precision"
    assert found["images"]["pattern"] == "{split}/images/{id}.png"


@pytest.mark.parametrize("named", [True, False])
def test_masks_in_colours(named, tmp_path):
    masks, images = scene(3, exclusive=True)
    colours = np.array([(0, 0, 0), (255, 255, 0), (0, 128, 255)], np.uint8)
    root = lay(tmp_path / "c", images)
    for i, m in zip(IDS[:N], masks, strict=False):
        save(root / f"train/labels/{i}.png", colours[m.argmax(0)][:, :, ::-1])
    tables(root, {"id": IDS[:N]}, asked_of(["sky", "field", "sea"]))
    if named:
        rows = [("sky", 0, 0, 0), ("field", 255, 255, 0), ("sea", 0, 128, 255)]
        pd.DataFrame(rows, columns=["name", "r", "g", "b"]).to_csv(root / "class_dict.csv", index=False)
    found, drawn, said = contract(root)
    hexes = ["#000000", "#ffff00", "#0080ff"]
    order = [hexes.index(colour) for colour in found["masks"]["colours"]]
    assert same([d[np.argsort(order)] for d in drawn], masks)
    assert found["masks"]["exclusive"] is True
    assert found["metric"] == "mean_iou"
    assert found["masks"]["pattern"] == "train/labels/{id}.png"
    if named:
        assert found["masks"]["colours"] == hexes
    assert found["classes"] == ["sky", "field", "sea"]
    assert ("classes" in {f.key for f in said.findings if not f.sure}) != named


@pytest.mark.parametrize("form", ["wide", "long", "joined"])
def test_masks_in_grey_values(form, tmp_path):
    masks, images = scene(3, exclusive=True)
    root = lay(tmp_path / "c", images)
    for i, m in zip(IDS[:N], masks, strict=False):
        save(root / f"train/masks/{i}.png", (m.argmax(0) * 85).astype(np.uint8))
    tables(root, {"id": IDS[:N]}, asked_of(["value 85", "value 170"] if form == "wide" else MANY, form))
    found, drawn, _ = contract(root)
    assert same(drawn, masks)
    assert found["masks"]["values"] == [0, 85, 170]
    assert found["classes"] == (["value 0", "value 85", "value 170"] if form == "wide" else MANY)


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("form", ["wide", "long", "joined"])
def test_a_file_a_class(form, table, tmp_path):
    masks, images = scene(3)
    root = lay(tmp_path / "c", images)
    for i, m in zip(IDS[:N], masks, strict=False):
        for name, layer in zip(MANY, m, strict=True):
            save(root / f"train/masks/{name}/{i}.png", layer * np.uint8(255))
    tables(root, {"id": IDS[:N]} if table else None, asked_of(MANY, form))
    found, drawn, _ = contract(root)
    assert same(drawn, masks)
    more = {"wide": {}, "long": {"class": "ClassId"}, "joined": {"separator": "_"}}[form]
    assert found["masks"] == {"pattern": "train/masks/{class}/{id}.png", **more}
    assert found["classes"] == MANY


def test_masks_of_nobody(tmp_path):
    _, images = scene()
    root = lay(tmp_path / "c", images)
    save(root / "train/masks/zzz.png", images[0])
    tables(root, None)
    with pytest.raises(UserError, match="no mask has the name of an image"):
        look(root)


def test_labels_are_no_masks(tmp_path):
    """Where the sample asks for labels, files of masks are left alone, and short cells of numbers are labels."""
    masks, images = scene()
    root = lay(tmp_path / "c", images)
    for i, m in zip(IDS[:N], masks, strict=False):
        save(root / f"train/masks/{i}.png", m[0] * np.uint8(255))
    tables(root, {"id": IDS[:N], "label": ["1 2", "3 1", "2", "1", "3", "2 3"] * 4}, {"id": IDS[N:], "label": "1"})
    assert {f.key: f.value for f in look(root).findings}["task"] == "multilabel"


@pytest.mark.parametrize("weights", ["none", "pretrained"])
def test_the_first_runs_are_nets_that_draw(weights, tmp_path):
    masks, images = scene()
    root = lay(tmp_path / "c", images)
    tables(root, {"id": IDS[:N], "rle_mask": [rle(m[0]) for m in masks[:N]]})
    texts = starters("c", prove(look(root), Path("competition.toml")), weights)
    assert f'name = "{"small_unet" if weights == "none" else "unet"}"' in texts["baseline"]
    assert "size = 32\n" in texts["baseline"]
    assert 'members = ["baseline", "second"]' in texts["blend"]
    assert all(text.startswith("# ") for text in texts.values())
