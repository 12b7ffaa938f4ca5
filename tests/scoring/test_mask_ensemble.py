"""Blends of maps: what is written is the weighted mean; weights are those of the fold."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.masks.maps import Maps, layout, pack
from pipeline.scoring.mask_ensemble import Blend, apart, refuse_unlike
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_npy, write_npy

SIZES = np.tile([[6, 8], [5, 5]], (6, 1))
MEMBERS = {"toy/one": 1, "toy/two": 2}


@pytest.fixture
def scene(house):
    """Twelve scored rows in three folds, four test rows; one member has two repeats. The first member is right."""
    rng = np.random.default_rng(0)
    table = SimpleNamespace(scored=np.arange(12), test=np.arange(12, 16), sizes=np.concatenate([SIZES, SIZES[:4]]))
    masks = [rng.random((1, *size)) > 0.6 for size in SIZES]

    def rows(at, sharp):
        out = []
        for i in at:
            noise = rng.random((1, *table.sizes[i]))
            p = sharp * masks[i] + (1 - sharp) * noise if i < 12 else noise
            out.append(pack(p, np.ones(1)))
        return np.concatenate(out)

    for (name, repeats), sharp in zip(MEMBERS.items(), (0.9, 0.1), strict=True):
        files = RunFiles(name)
        write_npy(files.oof, rows(table.scored, sharp))
        write_npy(files.test, rows(table.test, sharp))
        for r in range(repeats):
            for k in range(3):
                write_npy(files.fold(k, r).test, rows(table.test, sharp))

    class Truth(list):
        kind, classes = "classes", 1

    problem = SimpleNamespace(folds=np.arange(12) % 3, group=None, scored_classes=None)
    lay = lambda at: layout(table.sizes[at], 1)  # noqa: E731
    return SimpleNamespace(
        table=table, truth=Truth(masks), problem=problem, layout=lay, maps=lambda p, at: Maps(read_npy(p), lay(at))
    )


def test_fitted_weights_are_written_fold_by_fold(scene):
    blend, files = Blend(scene, MEMBERS, "convex", None, 0), RunFiles("toy/blend")
    weights = blend.fit()
    assert weights.method == "convex"
    assert all(w[0] > 0.9 for w in (*weights.by_fold.values(), weights.deployed))
    blend.write_oof(files.oof, weights)
    oof = scene.maps(files.oof, scene.table.scored)
    for i in range(12):
        wanted = sum(w * m[i] for w, m in zip(weights.by_fold[i % 3], blend.maps, strict=True))
        np.testing.assert_allclose(oof[i], wanted, atol=1e-3)
    assert blend.write_others(files, weights, "test") == [files.test, *(files.fold(k).test for k in range(3))]
    one, two = (np.asarray(read_npy(RunFiles(name).test), float) for name in MEMBERS)
    np.testing.assert_allclose(read_npy(files.test), weights.deployed @ np.stack([one, two]), atol=1e-3)
    for k in range(3):
        parts = [
            np.mean([read_npy(RunFiles(n).fold(k, r).test) for r in range(reps)], 0) for n, reps in MEMBERS.items()
        ]
        np.testing.assert_allclose(read_npy(files.fold(k).test), weights.by_fold[k] @ np.stack(parts), atol=2e-3)


def test_uniform_and_hand_are_not_fitted(scene):
    even = Blend(scene, MEMBERS, "uniform", None, 0).fit()
    hand = Blend(scene, MEMBERS, "hand", np.array([3.0, 1.0]), 0).fit()
    for weights, wanted in ((even, [0.5, 0.5]), (hand, [0.75, 0.25])):
        assert all(np.allclose(w, wanted) for w in (*weights.by_fold.values(), weights.deployed))


def test_runs_that_show_maps_otherwise_are_refused():
    alike = {"extra": 0, "scale": 1.0}
    assert refuse_unlike([alike, alike]) is None
    assert "different ways" in refuse_unlike([alike, {"extra": 1, "scale": 1.0}])


def test_a_fold_sees_the_others_mixed_by_its_own_weights(scene):
    blend, fitted = Blend(scene, MEMBERS, "convex", None, 0), {0: [0.9, 0.1], 1: [0.5, 0.5], 2: [0.2, 0.8]}
    told = {"weights": dict.fromkeys(MEMBERS, 0.5), "weights_by_fold": fitted}
    seen = apart(scene, json.loads(json.dumps(told)))
    assert sorted(seen) == [0, 1, 2]
    for k, maps in seen.items():
        others = np.flatnonzero(scene.problem.folds != k)
        assert len(maps) == len(others) == 8
        for n, i in enumerate(others.tolist()):
            wanted = sum(w * m[i] for w, m in zip(fitted[k], blend.maps, strict=True))
            np.testing.assert_allclose(maps[n], wanted, atol=1e-6)
    even = dict.fromkeys(range(3), np.array([0.5, 0.5]))
    assert apart(scene, told | {"weights_by_fold": even}) == {}
    assert apart(scene, {"stage": "train"}) == {}
