"""The place, the name and the seed of every model of a run."""

from dataclasses import replace

import pytest

from pipeline.store.artifacts import RunFiles
from pipeline.store.files import digest
from pipeline.training.which import Which

FILES = RunFiles("toy/a")


@pytest.mark.parametrize("which, folder, title", [
    (Which((2,)), "fold2", "fold 2"),
    (Which((0,), 1), "fold0/half1", "fold 0 half 1"),
    (Which((1, 2)), "pair1-2", "fold 1-2"),
    (Which((2,), repeat=1), "repeat1/fold2", "repeat 1 fold 2"),
    (Which((0,), 1, 2), "repeat2/fold0/half1", "repeat 2 fold 0 half 1"),
    (Which((2, 1), repeat=1), "repeat1/pair1-2", "repeat 1 fold 2-1"),
])  # fmt: skip
def test_every_model_has_its_place_and_its_name(which, folder, title):
    assert str(which.files(FILES).folder) == f"runs/toy/a/{folder}"
    assert which.title == title


def test_every_model_has_its_own_seed():
    assert Which((1,)).seed(7) == int(digest("7", "1")[:8], 16)  # as it always was: shelves stay what they are
    models = [Which((k,), half) for k in range(12) for half in (None, 0, 1)]
    models += [Which((j, k)) for k in range(12) for j in range(k)]
    models += [replace(which, repeat=r) for which in models for r in (1, 2, 11)]
    seeds = [which.seed(seed) for which in models for seed in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) <= max(seeds) < 2**32
