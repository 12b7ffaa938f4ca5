"""The built-in competition of masks: what it holds, and that it is the same each time."""

import cv2
import numpy as np
import pandas as pd
import pytest
from house import stage
from scipy import ndimage

from pipeline.competitions.blobs import draw_field, make
from pipeline.competitions.built_in import MAKERS
from pipeline.masks.rle import decode


def table(folder, name):
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)


def test_a_folder_as_kaggle_gives_it(tmp_path):
    make(tmp_path / "a", fields=4)
    train, sample, solution, tiles = (
        table(tmp_path / "a", n) for n in ("train", "sample_submission", "solution", "tiles")
    )
    assert len(train) == len(sample) == len(solution) == 36
    assert sample["id"].tolist() == solution["id"].tolist()
    assert not set(train["id"]) & set(sample["id"])
    assert set(tiles["id"]) == {*train["id"], *sample["id"]}
    assert set(sample["rle_mask"]) == {"1 1"}
    field = tiles.set_index("id")["field"]
    assert not set(field[train["id"]]) & set(field[sample["id"]])
    # Whole fields are public.
    assert solution["Usage"].groupby(field[solution["id"]].to_numpy()).nunique().max() == 1
    assert set(solution["Usage"]) == {"Public", "Private"}
    for split, ids in (("train", train["id"]), ("test", sample["id"])):
        files = sorted((tmp_path / "a" / f"{split}_images").glob("*.png"))
        assert sorted(ids) == [p.stem for p in files]
        assert {cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape for p in files} == {(64, 64)}
    make(tmp_path / "b", fields=4)
    make(tmp_path / "c", fields=4, seed=1)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")]
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files)
    assert (tmp_path / "a/train.csv").read_bytes() != (tmp_path / "c/train.csv").read_bytes()


def test_objects_are_the_parts_of_the_masks(tmp_path):
    make(tmp_path / "whole", fields=3)
    make(tmp_path / "parts", fields=3, objects=True)
    for name in ("train", "solution"):
        whole, parts = table(tmp_path / "whole", name), table(tmp_path / "parts", name)
        assert set(whole["id"]) == set(parts["id"])
        assert len(parts) > len(whole)
        for i, cell in zip(whole["id"], whole["rle_mask"], strict=True):
            layers = [decode(c, 64, 64) for c in parts["rle_mask"][parts["id"] == i]]
            assert np.sum(layers, 0).max() <= 1
            assert (np.any(layers, 0) == decode(cell, 64, 64)).all()
    images = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.png")]
    assert all((tmp_path / "whole" / p).read_bytes() == (tmp_path / "parts" / p).read_bytes() for p in images)


def test_fields_have_touching_cells_and_empty_tiles():
    empty, cells, clumps, inside, outside = [], 0, 0, [], []
    for seed in range(12):
        image, drawn = draw_field(np.random.default_rng(seed))
        assert image.shape == drawn.shape == (192, 192)
        cells += len(np.unique(drawn)) - 1
        clumps += ndimage.label(drawn > 0)[1]
        empty += [not drawn[y : y + 64, x : x + 64].any() for y in range(0, 192, 64) for x in range(0, 192, 64)]
        inside.append(image[drawn > 0].mean())
        outside.append(image[drawn == 0].mean())
    assert cells > 1.5 * clumps
    assert 0.15 < np.mean(empty) < 0.45
    assert min(np.subtract(inside, outside)) > 10


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "digits"])
def test_both_forms_become_tables_of_record(name, house):
    (house / "configs/toy").mkdir(parents=True)
    (house / "configs/toy/competition.toml").write_text(
        f'task = "segmentation"\nmetric = "dsb_precision"\nbuilt_in = "{name}"\nid = "id"\ntarget = "rle_mask"\n'
        '[images]\npattern = "{split}_images/{id}.png"\nchannels = "grey"\n[group]\ntable = "tiles.csv"\n'
        'column = "field"\n' + ("[masks]\nobjects = true\n" if "objects" in name else "")
    )
    stage("data", "toy")
    stage("folds", "toy")
    split = pd.read_csv(house / "folds/toy.csv")
    assert split["id"].is_unique
    assert (split["fold"] >= 0).sum() == (split["fold"] == -1).sum() == 198
