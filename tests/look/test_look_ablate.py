"""The ablation that make new writes: every variant of every task is a run that can be."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from house import make_competition, prepare
from mask_house import make_masks

from pipeline.look.ablate import steps_of, variants
from pipeline.look.configs import starters
from pipeline.look.look import Look
from pipeline.look.words import Finding
from pipeline.store.runs import load_run
from pipeline.trials.ablation import Ablation
from pipeline.trials.bench import Bench


def written(task, weights, shape="d4", rows=60, exclusive=False):
    findings = [Finding("task", task, ""), Finding("masks.exclusive", exclusive, "")]
    return starters("toy", Look(None, findings, [], rows, 16, shape, "why"), weights)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression", "segmentation"])
def test_every_variant_can_be_trained(task, house):
    make_masks(house) if task == "segmentation" else make_competition(house, task)
    prepare()
    texts = written(task, "none")
    for name in ("baseline", "ablate"):
        Path(f"configs/toy/{name}.toml").write_text(texts[name])
    config = load_run("toy/ablate")
    assert len(config.variants) >= 12
    assert (config.seeds, config.folds) == (3, [0, 1, 2])
    # Posed and checked as the stage does, networks built.
    assert sum(map(len, Ablation.of(Bench.of("toy/ablate"), config).groups)) == len(config.variants) + 1


@pytest.mark.parametrize("weights", ["none", "pretrained"])
@pytest.mark.parametrize("shape", ["d4", "hflip", "upright"])
@pytest.mark.parametrize("task", ["multiclass", "segmentation", "several"])
def test_twelve_whatever_the_images(weights, shape, task):
    text = written(task, weights, shape, rows=3000)["ablate"]
    assert len(tomllib.loads(text)["variants"]) >= 12
    assert text.startswith("# Which of ")
    assert "make ablate COMP=toy NAME=ablate" in text


def test_what_a_contract_forbids_is_left_out():
    base = {"augment": {"recipe": "medium"}, "optim": {"lr": 1e-3}, "batch_size": 16, "predict": {"tta": "d4"}}
    assert "distance" in variants("segmentation", base)
    assert "distance" not in variants("segmentation", base, exclusive=True)
    assert "smoothing" not in variants("regression", base)


@pytest.mark.parametrize("rows, batch, epochs, steps", [(4000, 32, 18, 800), (400, 16, 18, 360), (10**6, 32, 4, 25000)])
def test_short_but_an_epoch(rows, batch, epochs, steps):
    assert steps_of(rows, {"batch_size": batch, "epochs": epochs}) == steps
    assert steps >= np.ceil(0.8 * rows / batch)
