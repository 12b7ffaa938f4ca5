"""Miniatures of competitions whose rows are more than one picture, drawn so that they can be learnt."""

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

RUN = """epochs = 6
batch_size = 16
[model]
options = { widths = [8, 16] }
[image]
size = 12
[augment]
recipe = "light"
[optim]
lr = 1e-2
"""


def lay_out(root: Path, name: str, frame: pd.DataFrame, blank: object, contract: str, test: int) -> Path:
    """Write the tables of a competition whose last `test` rows are the test set, its contract and two configs."""
    data, configs = root / "data" / name, root / "configs" / name
    data.mkdir(parents=True, exist_ok=True)
    targets = [column for column in frame if column.startswith("target")]
    frame[:-test].to_csv(data / "train.csv", index=False)
    hidden = frame[-test:]
    hidden.drop(columns=targets).to_csv(data / "test.csv", index=False)
    hidden[["id", *targets]].assign(**dict.fromkeys(targets, blank)).to_csv(data / "sample_submission.csv", index=False)
    hidden[["id", *targets]].assign(Usage="Private").to_csv(data / "solution.csv", index=False)
    configs.mkdir(parents=True)
    (configs / "competition.toml").write_text(contract)
    (configs / "a.toml").write_text(RUN)
    (configs / "b.toml").write_text('base = "a"\nseed = 1\n')
    (configs / "blend.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\n')
    return data


def save(path: Path, image: np.ndarray) -> None:
    """Write a picture, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))


def recursion(root: Path, missing: str = "") -> Path:
    """Six grey channels x two sites a well; plates are groups of another brightness; four classes."""
    rng = np.random.default_rng(0)
    plates = np.repeat(np.arange(12), 8)
    y = rng.integers(0, 4, len(plates))
    ids = [f"P{plate:02d}_{row:03d}" for row, plate in enumerate(plates)]
    frame = pd.DataFrame({"id": ids, "plate": plates, "target": np.array(["a", "b", "c", "d"])[y]})
    data = lay_out(
        root,
        "cells",
        frame,
        "a",
        'task = "multiclass"\nmetric = "accuracy"\nid = "id"\ntarget = "target"\ntest = "test.csv"\n'
        '[images]\npattern = "{split}/{id}_s{view}_w{channel}.png"\nchannels = "grey"\n'
        f'channel = ["1", "2", "3", "4", "5", "6"]\nview = ["1", "2"]\n{missing}'
        "[group]\npattern = '^(P\\d+)_'\n[folds]\nn = 3\n",
        24,
    )
    for row, (i, label) in enumerate(zip(ids, y, strict=True)):
        split = "train" if row < len(ids) - 24 else "test"
        for site, channel in product("12", range(1, 7)):
            image = rng.integers(0, 60, (14, 12)) + 4 * plates[row]
            # The class is told by which channel is bright, at one of the two sites.
            bright = channel == label + 1 and site == "12"[row % 2]
            save(data / split / f"{i}_s{site}_w{channel}.png", image + 140 * bright)
    return data


def atlas(root: Path) -> Path:
    """Four colour files a row, 28 labels of which most are rare, joined in one column."""
    rng = np.random.default_rng(1)
    rate = np.r_[0.5, 0.4, 0.35, np.full(25, 0.08)]
    y = rng.random((90, 28)) < rate
    y[~y.any(1), 0] = True
    ids = [f"c{row:03d}" for row in range(len(y))]
    frame = pd.DataFrame({"id": ids, "target": [" ".join(map(str, np.flatnonzero(row))) for row in y]})
    data = lay_out(
        root,
        "atlas",
        frame,
        "0",
        'task = "multilabel"\nmetric = "f1_macro"\nid = "id"\ntarget = "target"\nseparator = " "\n'
        f"classes = {[str(label) for label in range(28)]}\n"
        '[images]\npattern = "{split}/{id}_{channel}.png"\nchannels = "grey"\n'
        'channel = ["red", "green", "blue", "yellow"]\n[folds]\nn = 3\n',
        24,
    )
    for row, (i, labels) in enumerate(zip(ids, y, strict=True)):
        for c, colour in enumerate(("red", "green", "blue", "yellow")):
            image = rng.integers(0, 60, (12, 12)) + (150 * labels[c] if c < 3 else 0)
            save(data / ("train" if row < 66 else "test") / f"{i}_{colour}.png", image)
    return data


def patients(root: Path) -> Path:
    """Half of the answer is in the picture, half in the metadata; some ages are unknown."""
    rng = np.random.default_rng(2)
    n = 120
    bright, age, ward = rng.random(n), rng.normal(60, 15, n), rng.choice(["north", "south", "west"], n)
    y = 10 * bright + (age - 60) / 5 + 3.0 * (ward == "south")
    ids = [f"p{row:03d}" for row in range(n)]
    shown = [f"{a:.1f}" if rng.random() > 0.05 else "" for a in age]
    weight = rng.choice([0.5, 1.0, 2.0], n)
    frame = pd.DataFrame({"id": ids, "age": shown, "ward": ward, "w": weight, "target": y.round(3)})
    data = lay_out(
        root,
        "patients",
        frame,
        0.0,
        'task = "regression"\nmetric = "rmse"\nid = "id"\ntarget = "target"\ntest = "test.csv"\n'
        '[images]\npattern = "{split}/{id}.png"\nchannels = "grey"\n'
        '[metadata]\nnumeric = ["age"]\ncategorical = ["ward"]\n[folds]\nn = 3\n',
        30,
    )
    for row, i in enumerate(ids):
        save(data / ("train" if row < 90 else "test") / f"{i}.png", rng.integers(0, 60, (12, 12)) + 190 * bright[row])
    return data


SEVERAL = """task = "several"
id = "id"
test = "test.csv"
[[targets]]
target = "target_kind"
task = "multiclass"
metric = "accuracy"
share = 2.0
[[targets]]
target = "target_age"
task = "regression"
metric = "mae"
weight = 0.5
[images]
pattern = "{split}/{id}.png"
channels = "grey"
[folds]
n = 3
"""


def pets(root: Path, contract: str = SEVERAL) -> Path:
    """Two targets of one picture: a kind, told by which third is bright, and an age, told by how bright the rest is.

    Beside them a grade and two labels of the age, which other contracts may ask for.
    """
    rng = np.random.default_rng(3)
    n = 120
    kind, age = rng.integers(0, 3, n), 10 * rng.random(n)
    ids = [f"p{row:03d}" for row in range(n)]
    frame = pd.DataFrame(
        {"id": ids, "owner": [f"o{row // 2}" for row in range(n)], "w": rng.choice([0.5, 1.0, 2.0], n)}
    )
    frame["target_kind"] = np.array(["cat", "dog", "rat"])[kind]
    frame["target_age"] = age.round(3)
    if "target_grade" in contract:
        frame["target_grade"] = (age // 3).astype(int).clip(0, 2)
        frame["target_sex"] = np.where(rng.random(n) < 0.8, age > 5, age < 5).astype(int)
        frame["target_tags"] = [
            " ".join(np.array(["old", "cat"])[[a > 6, k == 0]]) for a, k in zip(age, kind, strict=True)
        ]
    data = lay_out(root, "pets", frame, 0, contract, 30)
    for row, i in enumerate(ids):
        image = rng.integers(0, 40, (12, 12)) + 10 * age[row]
        image[4 * kind[row] : 4 * kind[row] + 4] += 100
        save(data / ("train" if row < 90 else "test") / f"{i}.png", image)
    return data
