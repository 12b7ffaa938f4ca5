"""Masks as competitions give them: every form is drawn as it was meant, or refused in one line."""

import json
import tomllib

import cv2
import numpy as np
import pandas as pd
import pytest
from house import prepare, stage
from mask_house import rle

from pipeline.masks.truth import read_truth
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.store.table import read_table
from pipeline.store.train import Train

N, TEST = 12, 4
RNG = np.random.default_rng(5)
SIZES = [(int(h), int(w)) for h, w in RNG.integers(6, 15, (N + TEST, 2))]
IDS = [f"i{row:02d}" for row in range(N + TEST)]
TWO = ["fish", "gravel"]


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
    sample = sample_for(contract, train) if sample is None else sample
    pd.DataFrame(sample).to_csv(data / "sample_submission.csv", index=False)
    configs.mkdir(parents=True, exist_ok=True)
    top, _, rest = contract.partition("[")
    rest = f"[{rest}" if rest else ""
    (configs / "competition.toml").write_text(
        f'task = "segmentation"\nmetric = "dice"\nid = "id"\n{top}{rest}'
        f'[images]\npattern = "{{split}}_images/{{id}}.{ending}"\nchannels = "grey"\n[folds]\nn = 3\n'
    )
    return data


def sample_for(contract, train):
    """A sample submission that asks for all classes: a column each, or a row for an id and a class."""
    given = tomllib.loads(contract)
    if "class" in given.get("masks", {}) and given["masks"]["class"] in train:
        names = sorted(set(train[given["masks"]["class"]]) - {""})
        return [{"id": i, given["masks"]["class"]: name, "rle": ""} for i in IDS[N:] for name in names]
    names = given.get("target") if isinstance(given.get("target"), list) else given.get("classes", ["rle"])
    return {"id": IDS[N:], **dict.fromkeys(names, "")}


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


def cell(row, text):
    """One RLE column; the cell of a row is spoilt."""

    def build(house):
        table = wide(drawn(1), ["rle"])
        table["rle"][row] = text
        write(house, table, 'target = "rle"\n')

    return build


def spoilt(change, contract='[masks]\npattern = "m/{id}.png"\n', classes=1, draw=drawn):
    """A file a row; `change(data, images)` spoils them."""

    def build(house):
        images = [m.argmax(0).astype(np.uint8) if classes > 1 else m[0] * np.uint8(255) for m in draw(classes)]
        data = write(house, {"id": IDS[:N]}, contract)
        files(data, "m/{id}.png", images)
        change(data, images)

    return build


def tabled(contract, change, **more):
    def build(house):
        table = change(long(drawn(), TWO))
        write(house, table, contract, **more)

    return build


def resize(data, images):
    cv2.imwrite(str(data / f"m/{IDS[3]}.png"), np.zeros((20, 21), np.uint8))


def repaint(value):
    def change(data, images):
        image = images[3].copy()
        image[2, 1] = value
        cv2.imwrite(str(data / f"m/{IDS[3]}.png"), image)

    return change


LONG = 'target = "rle"\n[masks]\nclass = "ClassId"\n'
VALUES = 'classes = ["a", "b"]\n[masks]\npattern = "m/{id}.png"\nvalues = [0, 1]\nexclusive = true\n'
COLOURS = 'classes = ["a", "b"]\n[masks]\npattern = "m/{id}.png"\ncolours = ["#000000", "#010101"]\n'
PIXELS = SIZES[3][0] * SIZES[3][1]
WRONG = {
    "past the end": (cell(3, f"1 2 {PIXELS} 2"), f"id 'i03' has RLE that does not fit: run '{PIXELS} 2' runs past the end"),
    "overlapping": (cell(3, "1 5 4 2"), "id 'i03' has RLE that does not fit: run '1 5' overlaps run '4 2'"),
    "before the start": (cell(3, "0 5"), "id 'i03' has RLE that does not fit: run '0 5' starts before pixel 1"),
    "odd": (cell(3, "1 5 4"), "id 'i03' has RLE that does not fit: 3 numbers, an odd count"),
    "words": (cell(3, "cat"), "id 'i03' has RLE that does not fit: 'cat' is not a whole number"),
    "nothing anywhere": (lambda h: write(h, {"id": IDS[:N], "rle": ""}, 'target = "rle"\n'),
                         "train.csv: class 'rle' has no pixel in any mask: nothing to learn"),
    "a class nowhere": (tabled(LONG.replace("[", 'classes = ["fish", "gravel", "cow"]\n[', 1), lambda t: t),
                        "class 'cow' has no pixel in any mask"),
    "id twice": (lambda h: write(h, {k: [*v, v[0]] for k, v in wide(drawn(1), ["rle"]).items()}, 'target = "rle"\n'),
                 "train.csv: id 'i00' stands there 2 times"),
    "class twice": (tabled(LONG, lambda t: pd.concat([t, t[4:5]])), "id 'i02' has class 'fish' twice"),
    "unknown class": (tabled(LONG.replace("[", 'classes = ["fish", "grave"]\n[', 1), lambda t: t), "id 'i00' has the class 'gravel'; did you mean 'grave'"),
    "no such column": (tabled(LONG.replace("ClassId", "Class"), lambda t: t), "train.csv has no column 'Class'"),
    "id without class": (tabled('target = "rle"\n[masks]\nseparator = "_"\n', lambda t: t), "id 'i00' is no image and class joined by '_'"),
    "overlapping objects": (tabled('target = "rle"\n[masks]\nobjects = true\n', lambda t: t.assign(rle="3 4")[["id", "rle"]]),
                            "id 'i00': objects 1 and 2 overlap"),
    "a pixel of no class": (lambda h: write(h, wide(drawn(), ["a", "b"]), 'target = ["a", "b"]\n[masks]\nexclusive = true\n'),
                            "id 'i00': the pixel in row 0, column 0 is of no class"),
    "one exclusive class": (lambda h: write(h, wide(drawn(1), ["rle"]), 'target = "rle"\n[masks]\nexclusive = true\n'),
                            "masks.exclusive is for 2 to 256 classes, there are 1"),
    "no mask": (spoilt(lambda data, _: (data / f"m/{IDS[3]}.png").unlink()), "id 'i03' has no mask data/toy/m/i03.png"),
    "a mask of nobody": (spoilt(lambda data, images: cv2.imwrite(str(data / "m/i99.png"), images[0])),
                         "mask data/toy/m/i99.png has no row: there is no id 'i99'"),
    "another size": (spoilt(resize), f"mask data/toy/m/i03.png is 20 x 21 pixels, the image of id 'i03' {SIZES[3][0]} x {SIZES[3][1]}"),
    "no image": (spoilt(lambda data, _: (data / f"m/{IDS[3]}.png").write_bytes(b"x")), "mask data/toy/m/i03.png of id 'i03' cannot be read"),
    "empty file": (spoilt(lambda data, _: (data / f"m/{IDS[3]}.png").write_bytes(b"")), "mask data/toy/m/i03.png of id 'i03' cannot be read"),
    "unknown value": (spoilt(repaint(7), VALUES, 2, lambda c: drawn(c, True)),
                      "data/toy/m/i03.png: id 'i03': the pixel in row 2, column 1 has the value 7, which masks.values does not"),
    "unknown colour": (spoilt(repaint(7), COLOURS, 2, lambda c: drawn(c, True)), "the pixel in row 2, column 1 has the colour '#070707'"),
    "row without image": (lambda h: write(h, {"id": [*IDS[:N], "j"], "rle": "1 2"}, 'target = "rle"\n'), "id 'j' has no image"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, house):
    build, said = WRONG[case]
    build(house)
    with pytest.raises(UserError) as caught:
        prepare()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (house / "cache/toy/table.csv").exists()
    assert not (house / "cache/toy/masks.npy").exists()
    assert not list((house / "cache/toy").glob("*.tmp"))


CONTRACTS = {
    "of another task": ('task = "binary"\ntarget = "y"\n[masks]\nobjects = true\n', "[masks] is for task = \"segmentation\""),
    "no target": ('task = "segmentation"\n', "target names the RLE column"),
    "no target of labels": ('task = "binary"\n', "target: name the column"),
    "both": ('task = "segmentation"\ntarget = "y"\n[masks]\npattern = "m/{id}"\n', "masks in files have masks.pattern instead"),
    "no id": ('task = "segmentation"\n[masks]\npattern = "m/x"\n', "masks.pattern must contain {id}"),
    "no names": ('task = "segmentation"\n[masks]\npattern = "m/{id}"\nvalues = [1, 2]\n', "classes: name the class of each value"),
    "names": ('task = "segmentation"\nclasses = ["a"]\n[masks]\npattern = "m/{id}"\nvalues = [1, 2]\n', "classes: name the class of each"),
    "files of classes": ('task = "segmentation"\n[masks]\npattern = "{class}/{id}"\n', "classes: name the class of each"),
    "too many names": ('task = "segmentation"\ntarget = "y"\nclasses = ["a", "b"]\n', "classes: give one name for each RLE column"),
    "colours": ('task = "segmentation"\nclasses = ["a"]\n[masks]\npattern = "m/{id}"\ncolours = ["red"]\n', '"#rrggbb" in small letters'),
    "twice": ('task = "segmentation"\nclasses = ["a", "b"]\n[masks]\npattern = "m/{id}"\nvalues = [3, 3]\n', "one stands there twice"),
    "values of RLE": ('task = "segmentation"\ntarget = "y"\n[masks]\nvalues = [3]\n', "give masks.pattern for it"),
    "objects": ('task = "segmentation"\ntarget = "y"\n[masks]\nobjects = true\nexclusive = true\n', "drop pattern, class and exclusive"),
    "long and wide": ('task = "segmentation"\ntarget = ["a", "b"]\n[masks]\nclass = "c"\n', "have one RLE column"),
    "views": ('task = "segmentation"\ntarget = "y"\n[images]\npattern = "{id}_{view}"\nview = ["1"]\n', "a mask is of one image"),
    "means of groups": ('metric_per_group = true\ntask = "segmentation"\ntarget = "y"\n[group]\ncolumn = "z"\n', "no metric file or mean of groups"),
    "order": ('task = "segmentation"\ntarget = "y"\n[masks]\norder = "rows"\n', "'column' or 'row', got 'rows'"),
    "a wrong key": ('task = "segmentation"\ntarget = "y"\n[masks]\nclas = "c"\n', "unknown key 'masks.clas'; did you mean 'class'"),
    "two groups": ('task = "segmentation"\ntarget = "y"\n[group]\nmosaic = true\ncolumn = "c"\n', "[group] takes either column"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRACTS)
def test_contracts_that_cannot_be(case, house):
    text, said = CONTRACTS[case]
    (house / "configs/toy").mkdir(parents=True)
    (house / "configs/toy/competition.toml").write_text(f'metric = "dice"\nid = "id"\n{text}')
    with pytest.raises(UserError) as caught:
        load_competition("toy")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_mask_is_seen(house):
    data = write(house, {"id": IDS[:N]}, '[masks]\npattern = "m/{id}.png"\n')
    files(data, "m/{id}.png", [m[0] * np.uint8(255) for m in drawn(1)])
    prepare()
    facts = read_table_facts(CompetitionFiles("toy"))
    before = digest_file(CompetitionFiles("toy").masks)
    prepare()
    assert read_table_facts(CompetitionFiles("toy")) == facts
    mask = cv2.imread(str(data / f"m/{IDS[3]}.png"), cv2.IMREAD_UNCHANGED)
    # As many pixels, but others: coverage is the same, and so is the table.
    cv2.imwrite(str(data / f"m/{IDS[3]}.png"), np.ascontiguousarray(mask[::-1]))
    prepare()
    after = read_table_facts(CompetitionFiles("toy"))
    assert after["scored"] != facts["scored"]
    assert after["fold_map"] == facts["fold_map"]
    assert after["test"] == facts["test"]
    assert digest_file(CompetitionFiles("toy").masks) != before


@pytest.mark.parametrize("as_files", [True, False])
def test_the_holdout_and_extra_rows_have_masks(as_files, house):
    masks = drawn(1)
    cells = {"id": IDS[:N]} if as_files else wide(masks, ["rle"])
    how = '[masks]\npattern = "m/{id}.png"\n' if as_files else 'target = "rle"\n'
    more = '[extra]\ntable = "more.csv"\npattern = "train_images/{id}.png"\n'
    data = write(house, {k: v[:10] for k, v in cells.items()}, how + more)
    pd.DataFrame({k: v[10:] for k, v in cells.items()}).to_csv(data / "more.csv", index=False)
    if as_files:
        files(data, "m/{id}.png", [m[0] * np.uint8(255) for m in masks])
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text() + "holdout = 0.2\n")
    prepare()
    found, table = truth()
    assert len(table.holdout) == len(table.extra) == 2
    assert table.answered.sum() == 12
    for row in np.flatnonzero(table.answered):
        assert (found[row] == masks[IDS.index(table.ids[row])]).all()
    assert {"scored", "extra", "holdout"} <= set(read_table_facts(CompetitionFiles("toy")))


def test_images_without_a_table(house):
    masks = drawn(1)
    data = write(house, None, 'train = "train_images/*"\n[masks]\npattern = "m/{id}.png"\n')
    files(data, "m/{id}.png", [m[0] * np.uint8(255) for m in masks])
    check(masks, ["mask"])


def test_folds_are_even_by_size_and_whole_by_mosaic(house):
    (house / "configs/toy").mkdir(parents=True)
    (house / "configs/toy/competition.toml").write_text(
        'task = "segmentation"\nmetric = "dice"\nbuilt_in = "blobs"\nid = "id"\ntarget = "rle_mask"\n'
        '[images]\npattern = "{split}_images/{id}.png"\nchannels = "grey"\n[group]\nmosaic = true\n'
    )
    prepare()
    _, table = truth()
    fields = pd.read_csv(house / "data/toy/tiles.csv", dtype=str).set_index("id")["field"]
    of = fields[table.ids].to_numpy()
    # Most tiles of a field find each other, and no others.
    pairs = pd.DataFrame({"mosaic": table.groups, "field": of})[table.groups != ""]
    assert pairs.groupby("mosaic")["field"].nunique().max() == 1
    assert pairs.groupby("field").size().sum() > 0.9 * len(table.ids)
    rows = table.scored
    assert pd.Series(table.folds[rows]).groupby(table.groups[rows]).nunique().max() == 1
    empty = np.bincount(table.folds[rows][table.y[rows, 0] == 0])
    assert 0.2 < empty.sum() / len(rows) < 0.4
    assert np.ptp(empty) <= 4
    large = table.y[rows, 0] > np.quantile(table.y[rows, 0], 0.8)
    assert np.ptp(np.bincount(table.folds[rows][large])) <= 3


def test_tasks_without_masks_have_no_sizes(house):
    from house import make_competition

    make_competition(house, "multiclass")
    prepare()
    files_ = CompetitionFiles("toy")
    assert "height" not in files_.table.read_text().splitlines()[0]
    assert (read_table(files_, read_table_facts(files_)).sizes == -1).all()
    assert not files_.masks.exists()


def test_a_split_of_before_mosaics_were_there_is_kept(house):
    from house import make_competition

    make_competition(house, "multiclass", extra="[group]\npattern = '^i..(.)'\n")
    prepare()
    path = house / "folds/toy.json"
    before = (house / "folds/toy.csv").read_bytes()
    path.write_text(path.read_text().replace(',\n   "mosaic": false', ""))
    (house / "folds/toy.csv").write_bytes(before)
    (house / "cache/toy/table.csv").unlink()
    stage("folds", "toy")
    assert "edited by hand" not in path.read_text()
    assert (house / "folds/toy.csv").read_bytes() == before


def test_the_sample_says_which_classes_are_scored(house):
    masks = drawn(3, exclusive=True)
    contract = 'classes = ["a", "b", "c"]\n[masks]\npattern = "m/{id}.png"\nvalues = [0, 1, 2]\nexclusive = true\n'
    data = write(house, {"id": IDS[:N]}, contract, {"id": IDS[N:], "c": "", "b": ""})
    files(data, "m/{id}.png", [m.argmax(0).astype(np.uint8) for m in masks])
    _, table = check(masks, ["a", "b", "c"])
    assert table.scored_classes == (1, 2)
    facts, contract = read_table_facts(CompetitionFiles("toy")), load_competition("toy")
    assert '"scored": [' in (house / "folds/toy.json").read_text()
    config = Train.model_validate({"stage": "train", "epochs": 1})
    pd.DataFrame({"id": IDS[N:], "a": "", "b": "", "c": ""}).to_csv(data / "sample_submission.csv", index=False)
    prepare()
    every = read_table_facts(CompetitionFiles("toy"))
    assert "scored_classes" not in every
    assert truth()[1].scored_classes is None
    # Neither weights nor predictions know what is scored; the scores do.
    one, other = train_keys(config, contract, facts), train_keys(config, contract, every)
    assert one[:2] == other[:2]
    assert one[2] != other[2]


def test_sizes_that_few_masks_cannot_fill_are_told_in_one_line(house):
    write(house, wide(drawn(1), ["rle"]), 'target = "rle"\n')
    prepare()
    facts = json.loads((house / "folds/toy.json").read_text())
    lacking = {name: row.count(0) for name, row in facts["balance"].items() if 0 in row}
    sizes = [name for name in lacking if name != "(empty)"]
    told = [line for line in facts["warnings"] if "is missing from fold(s)" in line]
    assert len(sizes) > 2
    assert len(told) == 1 + ("(empty)" in lacking)
    assert told[-1].startswith(f"stratum {sizes[0]!r} is missing from fold(s) [")
    assert told[-1].endswith(f"; so are {len(sizes) - 1} others from some fold")
