"""The rounds of an ablation, by what was judged alone."""

import pytest
from house import make_competition, prepare, write

from pipeline.store.runs import load_run
from pipeline.trials.ablation import Ablation
from pipeline.trials.bench import Bench


@pytest.fixture
def plan(house):
    make_competition(house, "multiclass", n_train=60, n_test=8)
    prepare()
    write("abl", '''stage = "ablate"
base = "b"
seeds = 2
[variants]
one = { optim.lr = 0.1 }
two = { optim.lr = 0.1, predict.tta = "hflip" }
views = { predict.tta = "hflip" }
linear = { fit = "linear" }
linear_views = { fit = "linear", predict.tta = "hflip" }
''')  # fmt: skip
    return Ablation.of(Bench.of("toy/abl"), load_run("toy/abl"))


def test_what_has_the_same_models_is_fitted_once(plan):
    # Features of a frozen network are those of its views: nothing there is shared.
    assert plan.groups == [["base", "views"], ["one", "two"], ["linear"], ["linear_views"]]
    first = [[f"{t.name}{t.config.seed}" for t in unit.trials] for unit in plan.first()]
    assert first == [["base1", "views1"], ["base2", "views2"], ["one1", "two1"], ["linear1"], ["linear_views1"]]


def test_the_base_has_its_own_steps_and_seed(plan):
    assert plan.steps == 2 * 3  # two epochs of 40 rows by 16
    assert plan.trial("base", 0).config == plan.config.base
    assert plan.trial("one", 1, split=7).files(plan.bench.files).folder.parts[-2:] == ("one", "folds7-s2")


def test_a_fresh_split_is_another_one(plan):
    assert plan.bench.fold_map(1) != plan.bench.fold_map(None)
    assert plan._split("one") == 1
