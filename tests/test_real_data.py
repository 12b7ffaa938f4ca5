"""The contract on real competition folders; they lie where PODIUM_DATA says, and nothing here needs them."""

import json
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from house import prepare, stage

CONTRACTS = {
    "seedlings": """task = "multiclass"
metric = "f1_macro"
id = "file"
target = "species"
[images]
pattern = "{split}_images/{id}"
""",
    "knee-mini": r"""task = "ordinal"
metric = "quadratic_kappa"
id = "id_code"
target = "diagnosis"
[images]
pattern = "{split}_images/{id}.png"
channels = "grey"
[group]
pattern = '^(\d+)[LR]$'
""",
    "blood-tiles": """task = "multilabel"
metric = "average_precision"
id = "image"
target = "labels"
separator = " "
[images]
pattern = "{split}_images/{id}"
[group]
table = "sources.csv"
column = "source_image"
""",
}
TRAIN = """epochs = 1
[model]
options = { widths = [8] }
[image]
size = 16
[optim]
lr = 1e-2
"""


@pytest.mark.skipif("PODIUM_DATA" not in os.environ, reason="PODIUM_DATA is not set")
@pytest.mark.parametrize("name", CONTRACTS)
def test_folder_to_submission(name, house):
    with zipfile.ZipFile(Path(os.environ["PODIUM_DATA"]) / f"{name}.zip") as archive:
        archive.extractall(house / "data")
    (house / "configs" / name).mkdir(parents=True)
    (house / f"configs/{name}/competition.toml").write_text(CONTRACTS[name])
    (house / f"configs/{name}/tiny.toml").write_text(TRAIN)
    prepare(name)
    stage("train", f"{name}/tiny")
    stage("submit", f"{name}/tiny")

    split = pd.read_csv(f"folds/{name}.csv", dtype=str, keep_default_na=False)
    how = json.loads(Path(f"folds/{name}.json").read_text())
    train = split[split["fold"] != "-1"]
    if "group" in split:
        assert train.groupby("group")["fold"].nunique().max() == 1
        assert train["group"].nunique() < len(train)
    sizes = train["fold"].value_counts()
    assert sizes.max() - sizes.min() <= 0.02 * len(train)
    if name == "seedlings":
        assert how["identical_images"] > 0
        assert how["method"] == "stratified"
    cv = json.loads(Path(f"runs/{name}/tiny/cv.json").read_text())["metrics"]
    assert 0 < cv["se"] < 0.1
    sample, sent = (
        pd.read_csv(path, dtype=str, keep_default_na=False)
        for path in (f"data/{name}/sample_submission.csv", f"submissions/{name}/tiny.csv")
    )
    assert list(sample.columns) == list(sent.columns)
    assert (sample.iloc[:, 0] == sent.iloc[:, 0]).all()
