import pytest
from house import make_competition, prepare, write

from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.runs import load_run
from pipeline.trials.bench import Bench, Trial


@pytest.fixture
def bench(house):
    make_competition(house, "multiclass", n_train=60, n_test=8)
    prepare()
    write("abl", 'stage = "ablate"\nbase = "a"\nvariants.x.optim.lr = 0.1\n')
    return Bench.of("toy/abl")


@pytest.mark.parametrize(
    "batch, steps, epochs", [(16, 9, 3), (16, 10, 3), (8, 10, 2), (40, 7, 7), (7, 15, 2), (7, 16, 3)]
)
def test_whole_epochs_nearest_to_the_steps(batch, steps, epochs, bench):
    base = load_run("toy/abl").base.model_copy(update={"batch_size": batch, "pairs": True})  # 40 rows a model
    run = bench.scheduled(base, steps, 5, "base")
    assert (run.epochs, run.seed, run.pairs) == (epochs, 5, False)


def test_fewer_steps_than_an_epoch_are_refused(bench):
    with pytest.raises(UserError, match="configs/toy/abl.toml: steps = 2 is less than one epoch of base, which has 3"):
        bench.scheduled(load_run("toy/abl").base, 2, 0, "base")


def test_the_rows_of_a_trial_are_those_of_its_folds(bench):
    trial = Trial("x", load_run("toy/abl").base, (0, 2))
    problem, whole = bench.problem(trial), bench.table_of(None)
    assert set(problem.folds.tolist()) == {0, 2}
    assert len(problem.y) == (whole.folds[whole.scored] != 1).sum()


def test_threads_are_chosen_once(bench, monkeypatch):
    monkeypatch.setenv("PODIUM_THREADS", "3")
    assert Bench.of("toy/abl").threads == read_json(bench.files.state)["threads"] == 1
