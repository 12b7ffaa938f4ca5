"""The models of a run, their names, files and seeds; what is refused before anything is trained."""

from dataclasses import replace

import numpy as np
import pytest
from house import make_competition, prepare, stage, write
from school import job_of

from pipeline.store.errors import UserError
from pipeline.training.job import check_names, new_network, without_weights
from pipeline.training.which import Which


def test_the_models_of_a_run(school):
    folds = [Which((0,)), Which((1,)), Which((2,))]
    assert job_of("toy/a").models == folds
    assert job_of("toy/b").models == [*folds, Which((0, 1)), Which((0, 2)), Which((1, 2))]
    assert job_of("toy/s", halves=True).models == [Which((k,), half) for k in range(3) for half in (0, 1)]


def test_the_models_of_repeats(school):
    job = job_of("toy/b")
    further = np.roll(job.table.folds[job.table.scored], 1)
    table = replace(job.table, further=np.where(job.table.folds >= 0, 0, job.table.folds)[:, None])
    table.further[table.scored, 0] = further
    twice = replace(job, table=table)
    assert twice.models == [*job.models, *(replace(which, repeat=1) for which in job.models)]
    assert twice.whole == [Which((k,), None, r) for r in (0, 1) for k in range(3)]
    first, second = (twice.within(Which((0,), repeat=r)).table for r in (0, 1))
    np.testing.assert_array_equal(first.folds, job.table.folds)
    np.testing.assert_array_equal(second.folds[second.scored], further)
    np.testing.assert_array_equal(second.test, job.table.test)
    for k in range(3):
        learnt = second.labelled[second.foreign((k,))]
        np.testing.assert_array_equal(learnt, table.scored[further != k])
    assert job.table.split(0) is job.table
    assert first.fold_map() == job.table.fold_map() != table.fold_map()


def test_choosing_an_epoch_is_not_blind(school):
    write("best", 'base = "a"\nselect = "best"\n')
    assert job_of("toy/a").level == "blind"
    assert job_of("toy/best").level == "crossfit"


def test_indicators_have_one_more_score(school):
    write("i", 'base = "a"\nindicators = true\n')
    assert [new_network(job_of(f"toy/{name}")).head.out_features for name in "ai"] == [4, 5]
    check_names(job_of("toy/i"))


@pytest.mark.parametrize("task", ["binary", "multilabel", "ordinal", "regression"])
def test_indicators_are_a_class(house, task):
    make_competition(house, task)
    prepare()
    write("i", 'base = "a"\nindicators = true\n')
    with pytest.raises(UserError, match=r"configs/toy/i.toml: indicators = true .* multiclass only"):
        stage("train", "toy/i")
    assert not list(house.glob("runs/toy/i/**/*.safetensors"))


def test_pairs_of_two_folds_would_learn_nothing(house):
    make_competition(house, "multiclass")
    contract = house / "configs/toy/competition.toml"
    contract.write_text(contract.read_text().replace("n = 3", "n = 2"))
    prepare()
    write("q", 'base = "a"\npairs = true\n')
    with pytest.raises(UserError, match=r"configs/toy/q.toml: pairs = true needs 3 folds or more"):
        stage("train", "toy/q")
    assert not list(house.glob("runs/toy/q/**/*.safetensors"))


@pytest.mark.parametrize("change, what", [
    ("[optim]\nname = 'adamv'\n", "did you mean 'adam'"),
    ("[optim]\nschedule = 'cosin'\n", "did you mean 'cosine'"),
    ("[augment]\nrecipe = 'lihgt'\n", "did you mean 'light'"),
    ("[predict]\ntta = 'hflop'\n", "did you mean 'hflip'"),
    ("[loss]\nname = 'bce'\n", "unknown loss for a classification head"),
    ("[model]\nhead = 'both'\n", "model.head 'both' is not for a multiclass task"),
    ("[model]\noptions = { width = 3 }\n", "model.options do not fit"),
    ("[image]\nsize = [12, 16]\n[predict]\ntta = 'd4'\n", "image.size must be square"),
    ("[image]\nsize = 1\n", "cannot take 1 x 1 x 1 images"),
])  # fmt: skip
def test_names_are_checked_before_anything_is_trained(school, change, what):
    write("n", f'base = "a"\n{change}')
    with pytest.raises(UserError, match=what):
        check_names(job_of("toy/n"))


@pytest.mark.parametrize("change, what", [
    ('epochs = 1\ninit = "b"\noptim.freeze = "gradual"\n', 'optim.freeze = "gradual" needs 2 epochs or more'),
    ('epochs = 1\ninit = "b"\noptim.freeze = "auto"\n', 'optim.freeze = "auto" needs 2 epochs or more'),
    ('optim.freeze = "gradual"\n', 'optim.freeze = "gradual" keeps what was learnt: it needs model.weights or init'),
    ('batch_size = "auto"\noptim.accumulate = 2\n', 'batch_size = "auto" is what fits: it excludes optim.accumulate'),
    ('pseudo = "p"\nbatch_size = 1\n', "batch_size must be 2 or more with pseudo"),
])  # fmt: skip
def test_contradictions(school, change, what):
    write("n", f'base = "a"\n{change}')
    with pytest.raises(UserError, match=what):
        job_of("toy/n")


def test_values_have_no_images_per_class(house):
    make_competition(house, "regression")
    prepare()
    write("n", 'base = "a"\ninit = "b"\noptim.freeze = "auto"\n')
    with pytest.raises(UserError, match=r'configs/toy/n.toml: optim.freeze = "auto" counts images per class'):
        check_names(job_of("toy/n"))


def test_a_square_crop_of_an_oblong_image_may_be_turned(school):
    write("n", 'base = "a"\n[image]\nsize = [14, 12]\ncrop = 10\n[predict]\ntta = "d4"\n')
    check_names(job_of("toy/n"))
    job = job_of("toy/n")
    assert (job.size, job.seen, new_network(job).crop) == ([14, 12], [10, 10], 10)


def test_pretrained_weights_are_not_fetched_to_look_at_a_network(school):
    write("n", 'base = "a"\n[model]\nname = "resnet18"\nweights = "pretrained"\noptions = {}\n')
    job = job_of("toy/n")
    assert without_weights(job).config.model.weights == "none"
    assert without_weights(job).config.model.name == "resnet18"
    assert job.config.model.weights == "pretrained"
