"""A toy competition for each task, and ways to run stages on it."""

import argparse
import importlib
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
for variable, value in {
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PODIUM_THREADS": "1",
}.items():
    os.environ[variable] = value

TRAIN = """stage = "train"
epochs = 3
batch_size = 16
[model]
name = "cnn"
options = { widths = [8, 16] }
[image]
size = 12
[augment]
recipe = "none"
[optim]
lr = 1e-2
"""


def draw(y: np.ndarray, rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """One grey image: pixel block j is as bright as y[j]."""
    image = rng.integers(0, 60, (size, size))
    for j, value in enumerate(np.atleast_1d(y)):
        top, left = divmod(j, 3)
        image[top * 4 : top * 4 + 4, left * 4 : left * 4 + 4] += int(190 * value)
    return image.astype(np.uint8)


def table_for(task: str, n: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Target columns and what to draw for them."""
    if task == "binary":
        y = rng.integers(0, 2, n)
        return pd.DataFrame({"target": np.array(["no", "yes"])[y]}), y[:, None]
    if task == "multiclass":
        y = rng.integers(0, 4, n)
        return pd.DataFrame({"target": np.array(["ant", "bee", "cat", "dog"])[y]}), np.eye(4)[y]
    if task == "multilabel":
        y = rng.random((n, 3)) < [0.6, 0.4, 0.3]
        names = np.array(["red", "green", "blue"])
        return pd.DataFrame({"target": [" ".join(names[row]) for row in y]}), y.astype(float)
    if task == "ordinal":
        y = rng.integers(0, 4, n)
        return pd.DataFrame({"target": y}), (y / 3)[:, None]
    y = rng.random(n)
    return pd.DataFrame({"target": (10 + 5 * y).round(4)}), y[:, None]


METRIC = {
    "binary": "roc_auc",
    "multiclass": "accuracy",
    "multilabel": "f1_macro",
    "ordinal": "quadratic_kappa",
    "regression": "rmse",
}


def make_competition(
    root: Path, task: str, name: str = "toy", n_train: int = 60, n_test: int = 24, extra: str = "", metric: str = ""
) -> Path:
    """Write data, contract and two configs of a toy competition; return its data folder."""
    rng = np.random.default_rng(7)
    data = root / "data" / name
    targets, pictures = table_for(task, n_train + n_test, rng)
    ids = [f"i{j:03d}" for j in range(len(targets))]
    for split, rows in (("train", range(n_train)), ("test", range(n_train, n_train + n_test))):
        (data / split).mkdir(parents=True)
        for j in rows:
            cv2.imwrite(str(data / split / f"{ids[j]}.png"), draw(pictures[j], rng))
    frame = pd.DataFrame({"id": ids}).join(targets)
    frame[:n_train].to_csv(data / "train.csv", index=False)
    hidden = frame[n_train:]
    blank = {"binary": 0.5, "multiclass": "ant", "multilabel": "red", "ordinal": 0, "regression": 0.0}[task]
    hidden.assign(target=blank).to_csv(data / "sample_submission.csv", index=False)
    usage = np.where(np.arange(n_test) % 3 == 0, "Public", "Private")
    hidden.assign(Usage=usage).to_csv(data / "solution.csv", index=False)
    configs = root / "configs" / name
    configs.mkdir(parents=True)
    separator = 'separator = " "\n' if task == "multilabel" else ""
    (configs / "competition.toml").write_text(
        f'task = "{task}"\nmetric = "{metric or METRIC[task]}"\nid = "id"\ntarget = "target"\n{separator}'
        f'[images]\npattern = "{{split}}/{{id}}.png"\nchannels = "grey"\n[folds]\nn = 3\n{extra}'
    )
    (configs / "a.toml").write_text(TRAIN)
    (configs / "b.toml").write_text('base = "a"\nseed = 1\nepochs = 2\n')
    (configs / "blend.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\n')
    return data


def write(name: str, text: str, competition: str = "toy") -> None:
    """Write the config of a run."""
    Path(f"configs/{competition}/{name}.toml").write_text(text)


def stage(name: str, *arguments: str) -> None:
    """Run a stage in this process."""
    module = importlib.import_module(f"pipeline.stages.{name}")
    names = {"vary": ("base", "name"), "status": ("competition",)}.get(name, ("run", "competition"))
    values = [*arguments, *[arguments[0] if arguments else None] * 2]
    module.run(argparse.Namespace(**dict(zip(names, values, strict=False))))


def prepare(name: str = "toy") -> None:
    """Data and folds."""
    stage("data", name)
    stage("folds", name)
