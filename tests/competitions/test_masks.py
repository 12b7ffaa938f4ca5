"""Masks as competitions give them: every form is drawn as it was meant, or refused in one line."""

import cv2
import numpy as np
import pandas as pd
import pytest
from house import prepare, stage

from pipeline.masks.truth import kind_of, read_truth
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table

N, TEST = 12, 4
RNG = np.random.default_rng(5)
SIZES = [(int(h), int(w)) for h, w in RNG.integers(6, 15, (N + TEST, 2))]
IDS = [f"i{row:02d}" for row in range(N + TEST)]
TWO = ["fish", "gravel"]


def rle(mask, order="column"):
    """Encode a mask by the book: pixel by pixel."""
    flat = np.asarray(mask, bool).ravel("F" if order == "column" else "C").tolist()
    runs, start = [], None
    for at, bit in enumerate([*flat, False], 1):
        if bit and start is None:
            start = at
        elif not bit and start is not None:
            runs += [start, at - start]
            start = None
    return " ".join(map(str, runs))


def drawn(classes=2, exclusive=False):
    """Random masks of every labelled row (C h w); rows 0 and 5 are empty, unless each pixel has a class."""
    found = []
    for row, size in enumerate(SIZES[:N]):
        if exclusive:
            found.append(RNG.integers(0, classes, size) == np.arange(classes)[:, None, None])
        else:
            found.append(RNG.random((classes, *size)) < (0 if row in (0, 5) else 0.4))
    return found


def write(house, train, contract, sample=None, ending="png"):
    """Write images, tables and the contract."""
    data, configs = house / "data/toy", house / "configs/toy"
    for split in ("train", "test"):
        (data / f"{split}_images").mkdir(parents=True, exist_ok=True)
    for row, (i, size) in enumerate(zip(IDS, SIZES, strict=True)):
        path = data / ("train_images" if row < N else "test_images") / f"{i}.{ending}"
        assert cv2.imwrite(str(path), RNG.integers(0, 255, size, np.uint8))
    if train is not None:
        pd.DataFrame(train).to_csv(data / "train.csv", index=False)
    sample = {"id": IDS[N:], "rle": ""} if sample is None else sample
    pd.DataFrame(sample).to_csv(data / "sample_submission.csv", index=False)
    configs.mkdir(parents=True, exist_ok=True)
    top, _, rest = contract.partition("[")
    rest = f"[{rest}" if rest else ""
    (configs / "competition.toml").write_text(
        f'task = "segmentation"\nmetric = "dice"\nid = "id"\n{top}{rest}'
        f'[images]\npattern = "{{split}}_images/{{id}}.{ending}"\nchannels = "grey"\n[folds]\nn = 3\n'
    )
    return data


def truth():
    files, config = CompetitionFiles("toy"), load_competition("toy")
    table = read_table(files, read_table_facts(files))
    return read_truth(files, table, config), table


def check(masks, classes):
    """Read the table of record and compare everything with the masks that were meant."""
    prepare()
    found, table = truth()
    assert table.classes == classes
    assert table.ids[:N].tolist() == IDS[:N]
    assert table.sizes.tolist() == [list(size) for size in SIZES]
    assert table.sizes.dtype == np.int32
    for row, mask in enumerate(masks):
        assert (found[row] == mask).all()
    assert np.allclose(table.y[:N], [mask.mean((1, 2)) for mask in masks])
    assert np.isnan(table.y[N:]).all()
    return found, table


def wide(masks, names, order="column"):
    return {"id": IDS[:N], **{name: [rle(m[c], order) for m in masks] for c, name in enumerate(names)}}


def long(masks, names, keep=lambda row, c, cell: True):
    rows = [(i, name, rle(m[c])) for i, m in zip(IDS, masks, strict=False) for c, name in enumerate(names)]
    rows = [row for row in rows if keep(*row)]
    return pd.DataFrame(rows, columns=["id", "ClassId", "rle"])


@pytest.mark.parametrize("order", ["column", "row"])
def test_one_column(order, house):
    masks = drawn(1)
    write(house, wide(masks, ["rle"], order), f'target = "rle"\n[masks]\norder = "{order}"\n')
    found, _ = check(masks, ["rle"])
    assert found.raw(3).shape == SIZES[3]
    facts = (house / "folds/toy.json").read_text()
    assert '"empty": 2' in facts
    assert str(CompetitionFiles("toy").masks) in read_table_facts(CompetitionFiles("toy"))["outputs"]


def test_a_column_a_class(house):
    masks = drawn()
    write(house, wide(masks, ["b", "a"]), 'target = ["b", "a"]\nclasses = ["fish", "gravel"]\n')
    found, _ = check(masks, TWO)
    assert found.raw(3).shape == (2, *SIZES[3])


@pytest.mark.parametrize("empty", ["", "-1"])
def test_a_row_for_an_id_and_a_class(empty, house):
    masks = drawn()
    table = long(masks, TWO, lambda i, name, cell: cell or i == IDS[0] or (i == IDS[5] and name == "fish"))
    table.loc[table["rle"] == "", "rle"] = empty
    table = table.sample(frac=1, random_state=1).sort_values("id", kind="stable")
    write(house, table, 'target = "rle"\n[masks]\nclass = "ClassId"\n')
    check(masks, TWO)


def test_an_image_without_a_class_has_an_empty_mask(house):
    masks = drawn()
    table = long(masks, TWO, lambda i, name, cell: cell or (i in (IDS[0], IDS[5]) and name == "fish"))
    table.loc[table["id"].isin([IDS[0], IDS[5]]), "ClassId"] = ""
    write(house, table, 'target = "rle"\n[masks]\nclass = "ClassId"\n')
    check(masks, TWO)


def test_ids_joined_to_classes(house):
    masks = drawn()
    table = long(masks, TWO)
    table["id"] = table["id"] + "_" + table.pop("ClassId")
    sample = {"id": [f"{i}_{name}" for i in IDS[N:] for name in TWO], "rle": ""}
    write(house, table, 'target = "rle"\nclasses = ["fish", "gravel"]\n[masks]\nseparator = "_"\n', sample)
    check(masks, TWO)


def test_objects(house):
    numbers = [RNG.integers(0, 4, size) * (row != 2) for row, size in enumerate(SIZES[:N])]
    rows = [(i, rle(n == k)) for i, n in zip(IDS, numbers, strict=False) for k in np.unique(n)[1:].tolist() or [9]]
    write(house, pd.DataFrame(rows, columns=["id", "rle"]), 'target = "rle"\n[masks]\nobjects = true\n')
    found, _ = check([(n > 0)[None] for n in numbers], ["rle"])
    for row, n in enumerate(numbers):
        there = np.unique(n)[1:]
        assert (found.instances(row) == np.searchsorted(there, n, side="right")).all()


def files(data, folder, images, ending="png"):
    for i, image in zip(IDS, images, strict=False):
        path = data / folder.format(id=i)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)


@pytest.mark.parametrize("high, dtype", [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (7, np.uint16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_a_row(high, dtype, channels, house):
    masks = drawn(1)
    data = write(house, {"id": IDS[:N]}, '[masks]\npattern = "{split}/masks/{id}.png"\n')
    files(data, "train/masks/{id}.png", [np.dstack([m[0] * dtype(high)] * channels) for m in masks])
    check(masks, ["mask"])


def test_jpeg_masks_are_cut_in_the_middle(house):
    masks = [np.kron(m, np.ones((8, 8))).astype(bool) for m in drawn(1)]
    data = write(house, {"id": IDS[:N]}, '[masks]\npattern = "masks/{id}.jpg"\n')
    for i, m in zip(IDS, masks, strict=False):
        cv2.imwrite(str(data / f"train_images/{i}.png"), m[0].astype(np.uint8))
    files(data, "masks/{id}.jpg", [m[0] * np.uint8(255) for m in masks])
    prepare()
    assert all((truth()[0][row] == mask).mean() > 0.99 for row, mask in enumerate(masks))


def test_a_file_a_class(house):
    masks = drawn()
    contract = 'classes = ["fish", "gravel"]\n[masks]\npattern = "train/masks/{class}/{id}.png"\n'
    data = write(house, {"id": IDS[:N]}, contract)
    for c, name in enumerate(TWO):
        files(data, f"train/masks/{name}/{{id}}.png", [m[c] * np.uint8(255) for m in masks])
    check(masks, TWO)


@pytest.mark.parametrize("exclusive", [True, False])
def test_values_that_stand_for_classes(exclusive, house):
    masks = drawn(3, exclusive=True)
    values = [0, 85, 170] if exclusive else [40, 85, 170]
    contract = f'classes = ["a", "b", "c"]\n[masks]\npattern = "m/{{id}}.png"\nvalues = {values}\n'
    data = write(house, {"id": IDS[:N]}, contract + f"exclusive = {str(exclusive).lower()}\n")
    if not exclusive:
        masks = [m & (RNG.random(m.shape[1:]) < 0.7) for m in masks]
    files(data, "m/{id}.png", [(np.array(values)[:, None, None] * m).sum(0).astype(np.uint8) for m in masks])
    found, _ = check(masks, ["a", "b", "c"])
    assert found.raw(0).ndim == (2 if exclusive else 3)


@pytest.mark.parametrize("palette", [False, True])
def test_colours_that_stand_for_classes(palette, house):
    masks, colours = drawn(3, exclusive=True), [(255, 255, 0), (0, 0, 0), (0, 128, 255)]
    contract = 'classes = ["a", "b", "c"]\n[masks]\npattern = "m/{id}.png"\nexclusive = true\n'
    data = write(house, {"id": IDS[:N]}, contract + 'colours = ["#ffff00", "#000000", "#0080ff"]\n')
    for i, m in zip(IDS, masks, strict=False):
        path = data / f"m/{i}.png"
        path.parent.mkdir(exist_ok=True)
        if palette:
            from PIL import Image

            image = Image.fromarray(m.argmax(0).astype(np.uint8), "P")
            image.putpalette([c for colour in colours for c in colour])
            image.save(path)
        else:
            cv2.imwrite(str(path), np.array(colours, np.uint8)[m.argmax(0)][:, :, ::-1])
    check(masks, ["a", "b", "c"])
