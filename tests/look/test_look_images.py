"""Which symmetries a mean picture has, and the words and first configs that come of it."""

import re
import tomllib

import numpy as np
import pytest

from pipeline.look.configs import WEIGHTS, minutes, starters
from pipeline.look.images import symmetry
from pipeline.look.look import Look
from pipeline.look.words import Finding, to_toml
from pipeline.store.runs import STAGES
from pipeline.store.section import validate
from pipeline.store.toml import literal


def noise(n=80, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (n, 24, 24, 3), np.uint8)


def test_noise_has_no_upright():
    for seed in range(5):
        assert symmetry(list(noise(seed=seed)))[0] == "d4"


def test_a_sky_above_is_upright_and_may_be_mirrored():
    images = noise()
    images[:, :12] += 50
    assert symmetry(list(images))[0] == "hflip"


def test_writing_is_not_mirrored():
    images = noise()
    images[:, 4:20, 2:8] += 50
    assert symmetry(list(images))[0] == "upright"
    assert "left and right differ" in symmetry(list(images))[1]


@pytest.mark.parametrize("seed", range(5))
def test_digits_are_not_mirrored(seed):
    from sklearn.datasets import load_digits

    images = (load_digits().images * 15).astype(np.uint8)
    assert symmetry(list(images[np.random.default_rng(seed).choice(len(images), 160, replace=False)]))[0] == "upright"


def test_ink_on_paper_is_not_mirrored():
    images = np.where(np.random.default_rng(0).random((40, 24, 24)) < 0.1, 0, 255).astype(np.uint8)
    assert symmetry(list(images)) == ("upright", "nearly all pixels are black or white, as in writing")


def test_few_images_tell_nothing():
    assert symmetry(list(noise(9)))[0] == "upright"


@pytest.mark.parametrize(
    "value", ["a", 'a"b', r"^(\d+)'$", r"^(\d+)$", "Löwe\tü\n", ["x", r"\d"], [1, 2], 0.002, 1e-4, 5, True]
)
def test_literals_are_toml(value):
    assert tomllib.loads(f"x = {literal(value)}")["x"] == value


def test_long_words_become_comments_and_never_keys():
    words = "x = 1 " * 60
    text = to_toml(["a", "b"], [Finding("id", "i", words, False), Finding("images.size", None, words)])
    assert tomllib.loads(text) == {"id": "i"}
    assert max(map(len, text.splitlines())) <= 112
    assert "(uncertain: check this)" in re.sub(r"\n# ", " ", text)


def found(rows=3000, side=80, shape="d4"):
    return Look(None, [Finding("task", "multiclass", "")], [], rows, side, shape, "why")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("rows", [50, 800, 4000, 10**6])
@pytest.mark.parametrize("side", [8, 28, 80, 1000])
@pytest.mark.parametrize("shape", ["d4", "hflip", "upright"])
def test_first_configs_are_valid(weights, rows, side, shape):
    texts = starters("toy", found(rows, side, shape), weights)
    settings = {name: tomllib.loads(text) for name, text in texts.items()}
    baseline = validate(STAGES["train"], settings["baseline"], name_of := "baseline.toml")
    assert name_of
    from pipeline.store.toml import merge

    change = {k: v for k, v in settings["second"].items() if k != "base"}
    second = validate(STAGES["train"], merge(settings["baseline"], change), "second.toml")
    assert (second.model, second.image) != (baseline.model, baseline.image)
    assert validate(STAGES["ensemble"], settings["blend"], "blend.toml").members == ["baseline", "second"]
    assert all(text.startswith("# ") and "NAME=" in text for text in texts.values())
    if weights == "none":
        assert 24 <= baseline.image.size <= 96
        assert 4 <= baseline.epochs <= 60
        took = baseline.epochs * minutes(rows, baseline.image.size, baseline.precision)
        assert took <= 15 or baseline.epochs == 4
    assert baseline.augment.recipe == {"d4": "medium", "hflip": "light", "upright": "upright"}[shape]
