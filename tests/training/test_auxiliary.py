"""Columns that are learnt beside the targets, and several dropout masks: against torch's own losses."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from house import make_competition, prepare, stage, write
from problems import ROW_TASKS as TASKS
from safetensors.torch import load_file
from school import job_of
from torch.nn import functional as F

from pipeline.competitions.metadata import read_auxiliary
from pipeline.nets.models import build
from pipeline.nets.objective import Objective
from pipeline.store.artifacts import RunFiles
from pipeline.store.columns import Auxiliary
from pipeline.store.errors import UserError
from pipeline.training.auxiliary import Part, Widened, parts_of
from pipeline.training.lessons import plan
from pipeline.training.which import Which

RNG = np.random.default_rng(0)
N = 9
Y = RNG.integers(0, 3, N)
AGE, SITE = RNG.normal(50, 9, N), RNG.integers(0, 4, N).astype(float)
AGE[2], SITE[5] = np.nan, np.nan
SECTION = '[auxiliary]\nnumeric = ["age"]\ncategorical = ["site"]\n'


def network(**how):
    torch.manual_seed(0)
    return build("cnn", weights="none", options={"widths": [4]}, channels=1, size=(8, 8), outputs=3, pool="avg",
                 normalize="half", **{"dropout": 0.0} | how)  # fmt: skip


def test_the_loss_is_the_sum_of_its_parts():
    made = Objective(TASKS["multiclass"], "classification", 3, Y)
    gold, scores = np.arange(6), torch.tensor(RNG.normal(size=(N, 3 + 1 + 4)), dtype=torch.float32)
    parts = [Part(0, 0.3, 0), Part(1, 2.0, 4)]
    targets = torch.cat([made.encode(Y), parts[0].encode(AGE, gold), parts[1].encode(SITE, gold)], 1)
    total = Widened(made, 3, parts).loss(scores, targets)
    known = AGE[:6][~np.isnan(AGE[:6])]
    value = (scores[:, 3].numpy() - (AGE - known.mean()) / known.std()) ** 2
    place = F.cross_entropy(scores[:, 4:], torch.tensor(np.nan_to_num(SITE)).long(), reduction="none").numpy()
    wanted = F.cross_entropy(scores[:, :3], torch.tensor(Y), reduction="none").numpy()
    wanted = wanted + 0.3 * np.nan_to_num(value) + 2 * np.where(np.isnan(SITE), 0, place)
    np.testing.assert_allclose(total, wanted, rtol=1e-4)


def test_what_is_unknown_has_no_gradient():
    part = Part(0, 1.0, 4)
    scores = torch.zeros(N, 4, requires_grad=True)
    part.loss(scores, part.encode(SITE, np.arange(N))).sum().backward()
    assert (scores.grad[5] == 0).all()
    assert (scores.grad[np.arange(N) != 5] != 0).any(1).all()


@pytest.mark.parametrize(
    "task, head", [("multiclass", "classification"), ("ordinal", "all"), ("regression", "regression")]
)
def test_the_loss_is_the_mean_over_dropout_masks(task, head):
    made = Objective(TASKS[task], head, 3, Y if task != "regression" else AGE.astype(float).round().clip(0))
    columns = {"classification": 3, "all": 6, "regression": 1}[head]
    scores = torch.tensor(RNG.normal(size=(N, 3 * columns + 1)), dtype=torch.float32)
    targets = made.encode(Y)
    part = Part(0, 1.0, 0)
    beside = part.encode(np.zeros(N), np.arange(N))
    total = Widened(made, columns, [part]).loss(scores, torch.cat([targets, beside], 1))
    masks = [scores[:, :columns], scores[:, columns + 1 : 2 * columns + 1], scores[:, 2 * columns + 1 :]]
    wanted = sum(made.loss(mask, targets) for mask in masks) / 3 + part.loss(scores[:, columns : columns + 1], beside)
    torch.testing.assert_close(total, wanted)


def test_a_network_gives_more_in_training_alone():
    net = network(dropout=0.5, dropouts=3, aux=2)
    x = torch.rand(5, 1, 8, 8)
    wide = net(x)
    assert wide.shape == (5, 3 + 2 + 2 * 3)
    masks = [wide[:, :3], wide[:, 5:8], wide[:, 8:]]
    assert not any(torch.equal(one, other) for i, one in enumerate(masks) for other in masks[:i])
    net.eval()
    assert torch.equal(net(x), net.head(net.features(x)))
    still = network(dropout=0.0, dropouts=3, aux=2)
    torch.testing.assert_close(still(x)[:, 5:8], still(x)[:, :3])


def test_one_mask_and_no_columns_change_nothing():
    one, other = network(dropout=0.3), network(dropout=0.3, dropouts=1, aux=0)
    assert one.state_dict().keys() == other.state_dict().keys()
    torch.manual_seed(3)
    first = one(torch.ones(2, 1, 8, 8))
    torch.manual_seed(3)
    assert torch.equal(first, other(torch.ones(2, 1, 8, 8)))


@pytest.fixture
def aged(house):
    """A toy competition whose train table says more of each row."""
    data = make_competition(house, "multiclass", extra=SECTION)
    frame = pd.read_csv(data / "train.csv", dtype=str)
    rng = np.random.default_rng(1)
    frame["age"] = [f"{a:.1f}" for a in rng.normal(50, 9, len(frame))]
    frame["site"] = rng.choice(["north", "south", "west"], len(frame))
    frame.loc[3, "age"] = frame.loc[4, "site"] = ""
    frame.to_csv(data / "train.csv", index=False)
    prepare()
    write("n", 'base = "a"\n[loss]\nauxiliary = { site = 0.5, age = 0.3 }\n[model]\ndropout = 0.2\ndropouts = 2\n')
    return SimpleNamespace(data=data, frame=frame)


def test_columns_reach_the_table_and_the_loss(aged):
    job = job_of("toy/n")
    table, frame = job.table, aged.frame
    assert table.auxiliary.shape == (84, 2)
    assert np.isnan(table.auxiliary[table.test]).all()
    ages = pd.to_numeric(frame["age"]).to_numpy()
    np.testing.assert_array_equal(table.auxiliary[table.scored, 0], ages)
    sites = [np.nan if s == "" else sorted(set(frame["site"]) - {""}).index(s) for s in frame["site"]]
    np.testing.assert_array_equal(table.auxiliary[table.scored, 1], sites)
    assert parts_of(job) == [Part(0, 0.3, 0), Part(1, 0.5, 3)]
    assert parts_of(job_of("toy/a")) == []


def test_numbers_are_in_units_of_the_rows_that_are_trained_on(aged):
    from pipeline.training import fold
    from pipeline.training.readable import labelled_images

    job, which = job_of("toy/n"), Which((1,))
    course = plan(job, which, *labelled_images(job))
    goal, targets = fold.widened(job, course.objective, course.targets, course.rows, course.lessons.gold, 4)
    assert targets.shape == (60, 4 + 1 + 3)
    mine = targets[course.lessons.gold, 4]
    assert np.nanmean(mine) == pytest.approx(0, abs=1e-5)
    assert np.nanstd(mine) == pytest.approx(1, abs=1e-5)
    assert np.nanstd(targets[:, 4]) != pytest.approx(1, abs=1e-3)  # not of all rows
    assert goal.width == 4


def test_a_run_learns_them_and_predicts_as_any_other(aged):
    stage("train", "toy/n")
    files = RunFiles("toy/n")
    kept = load_file(files.fold(0).model)
    assert kept["auxiliary.weight"].shape[0] == 4
    assert np.load(files.oof).shape == (60, 4)
    np.testing.assert_allclose(np.load(files.oof).sum(1), 1, rtol=1e-5)
    assert np.load(files.fold(0).epochs).shape == (60, 4 + 3)
    write("m", 'base = "n"\n[loss]\nauxiliary = { site = 5.0 }\n')
    stage("train", "toy/m")
    assert not np.array_equal(np.load(files.oof), np.load(RunFiles("toy/m").oof))


def test_another_cell_is_another_table(aged):
    before = job_of("toy/n").table
    rows = before.scored
    changed = before.content(rows)
    aged.frame.loc[0, "age"] = "1"
    aged.frame.to_csv(aged.data / "train.csv", index=False)
    prepare()
    assert job_of("toy/n").table.content(rows) != changed
    assert np.array_equal(job_of("toy/n").table.folds, before.folds)


@pytest.mark.parametrize(
    "contract, loss, said",
    [
        (SECTION.replace("age", "aeg"), "{ aeg = 1.0 }", r"has no column 'aeg', which \[auxiliary\] names; did you mean 'age'"),
        (SECTION, "{ sight = 1.0 }", r"loss.auxiliary has 'sight', which \[auxiliary\] does not name; did you mean 'site'"),
        ("", "{ age = 1.0 }", r"which \[auxiliary\] does not name; give it, in"),
        ('[auxiliary]\nnumeric = ["target"]\n', "{}", "'target' is the id, a target or metadata already"),
        ("[auxiliary]\n", "{}", "takes numeric"),
        ('[auxiliary]\nnumeric = ["site"]\n', "{}", "in column 'site', not a number"),
        (SECTION, "{ age = 0.0 }", "greater than 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(aged, house, contract, loss, said):
    path = house / "configs/toy/competition.toml"
    path.write_text(path.read_text().replace(SECTION, contract))
    write("n", f'base = "a"\n[loss]\nauxiliary = {loss}\n')

    def made():
        prepare()
        stage("train", "toy/n")

    with pytest.raises(UserError, match=said) as caught:
        made()
    assert "\n" not in str(caught.value)


def test_a_column_without_a_number_is_refused():
    part = (pd.DataFrame({"age": ["", "NA"]}), np.array(["a", "b"]), Path("train.csv"))
    with pytest.raises(UserError, match="auxiliary.numeric: column 'age' of train.csv has no number"):
        read_auxiliary(Auxiliary(numeric=["age"]), [part], [2])


def test_masks_of_no_dropout_are_refused(aged):
    write("n", 'base = "a"\n[model]\ndropouts = 2\n')
    with pytest.raises(UserError, match=r"model\.dropouts are masks of model\.dropout: set it above 0"):
        job_of("toy/n")
