"""A blend leaves the same shelf as a run, says what it is fitted on, and can be a member itself."""

import json

import numpy as np
import pytest
from house import make_competition, prepare, stage

from pipeline.store.errors import UserError
from pipeline.store.files import read_npy


@pytest.fixture
def binary(house):
    make_competition(house, "binary")
    prepare()
    for name in ("a", "b"):
        stage("train", f"toy/{name}")
    return house


def blend(house, text):
    (house / "configs/toy/blend.toml").write_text(f'stage = "ensemble"\nmembers = ["a", "b"]\n{text}\n')
    stage("ensemble", "toy/blend")
    return json.loads((house / "runs/toy/blend/cv.json").read_text())


def test_uniform_is_the_mean_and_blind(binary):
    receipt = blend(binary, 'method = "uniform"')
    assert set(receipt["level"].values()) == {"blind"}
    for part in ("oof.npy", "test.npy", *(f"fold{k}/test.npy" for k in range(3))):
        a, b, mixed = (read_npy(binary / f"runs/toy/{name}/{part}") for name in ("a", "b", "blend"))
        np.testing.assert_allclose(mixed, (a + b) / 2, atol=1e-6)


def test_hand_weights(binary):
    receipt = blend(binary, 'method = "hand"\nweights = [3.0, 1.0]')
    assert receipt["weights"] == {"toy/a": 0.75, "toy/b": 0.25}
    assert set(receipt["level"].values()) == {"blind"}


@pytest.mark.parametrize("method", ["convex", "greedy", "auto"])
def test_fitted_weights_are_crossfit(method, binary):
    receipt = blend(binary, f'method = "{method}"')
    assert set(receipt["level"].values()) == {"crossfit"}
    assert receipt["parents"][0]["run"] == "toy/a"
    if method == "convex":
        assert receipt["gap"] <= 1e-9
    for k in range(3):
        weights = receipt["weights_by_fold"][str(k)]
        assert abs(sum(weights) - 1) < 1e-9
        a, b, mixed = (read_npy(binary / f"runs/toy/{name}/fold{k}/test.npy") for name in ("a", "b", "blend"))
        np.testing.assert_allclose(mixed, weights[0] * a + weights[1] * b, atol=1e-6)


@pytest.mark.parametrize("space", ["logit", "rank"])
def test_spaces(space, binary):
    receipt = blend(binary, f'method = "uniform"\nspace = "{space}"')
    a, b, mixed = (read_npy(binary / f"runs/toy/{name}/test.npy").ravel() for name in ("a", "b", "blend"))
    if space == "logit":
        odds = (np.log(a / (1 - a)) + np.log(b / (1 - b))) / 2
        np.testing.assert_allclose(mixed, 1 / (1 + np.exp(-odds)), atol=1e-5)
    else:
        assert mixed.argmax() == (a.argsort().argsort() + b.argsort().argsort()).argmax()
    assert 0.5 < receipt["metrics"]["score"] <= 1


def test_a_blend_is_a_member(binary):
    blend(binary, 'method = "convex"')
    (binary / "configs/toy/top.toml").write_text(
        'stage = "ensemble"\nmembers = ["blend", "toy/a"]\nmethod = "uniform"\n'
    )
    stage("ensemble", "toy/top")
    receipt = json.loads((binary / "runs/toy/top/cv.json").read_text())
    assert set(receipt["level"].values()) == {"crossfit"}
    stage("submit", "toy/top")
    assert (binary / "submissions/toy/top.csv").exists()
    blend(binary, 'method = "hand"\nweights = [1.0, 3.0]')
    from pipeline.stages.status import state_of

    assert state_of("toy/top")[0] == "stale"
    assert state_of("toy/blend")[0] == "done"


def test_nothing_to_do_touches_only(binary):
    blend(binary, "")
    path = binary / "runs/toy/blend/oof.npy"
    before = path.stat().st_mtime_ns
    blend(binary, "# a comment")
    assert path.stat().st_mtime_ns == before


def test_a_train_config_is_refused(binary):
    with pytest.raises(UserError, match='has stage = "train": run make train instead'):
        stage("ensemble", "toy/a")
    with pytest.raises(UserError, match='has stage = "ensemble": run make ensemble instead'):
        stage("train", "toy/blend")


@pytest.mark.parametrize(
    "text, said",
    [
        ('method = "hand"', "needs them"),
        ("weights = [1.0, 1.0]", "only it takes them"),
        ('method = "hand"\nweights = [1.0]', "need 2 numbers"),
        ('method = "hand"\nweights = [0.0, 0.0]', "sum above 0"),
        ('method = "convex"\nspace = "logit"', "blends probabilities"),
        ('metod = "convex"', "did you mean 'method'"),
    ],
)
def test_contradictions(text, said, house):
    make_competition(house, "binary")
    with pytest.raises(UserError, match=said):
        blend(house, text)


def test_members_twice_or_none(house):
    make_competition(house, "binary")
    path = house / "configs/toy/blend.toml"
    for members, said in (('["a", "a"]', "stands there twice"), ("[]", "at least 1 item"), ('"a"', "valid list")):
        path.write_text(f'stage = "ensemble"\nmembers = {members}\n')
        with pytest.raises(UserError, match=said):
            stage("ensemble", "toy/blend")
