import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked import HELD, TEST, N, job_of, masked
from safetensors.torch import load_file

from pipeline.masks.decide import Decision, decide
from pipeline.masks.maps import Maps
from pipeline.masks.metrics import MASK_METRICS
from pipeline.nets.machine import Machine
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_npy
from pipeline.store.tracking import Tracker
from pipeline.training import engine
from pipeline.training.fold import fit_fold
from pipeline.training.job import check_names
from pipeline.training.mask_fold import lessons_of, measured
from pipeline.training.mask_job import maps_layout, truth_of
from pipeline.training.shelf import predict_fold
from pipeline.training.weights import choose_epochs, fitted, header_of
from pipeline.training.which import Which

WHICH = Which((1,))
EVERYTHING = (
    '[augment]\nrecipe = "medium"\nmixup = 0.5\ncutmix = 0.5\n[average]\nema = 0.9\n'
    '[loss]\nterms = { bce = 1.0, dice = 0.5 }\nthen = { at = 0.5, terms = { lovasz = 1.0 } }\nnon_empty = ["dice"]\n'
    "distance = 1.0\nsize_classes = 0.1\ndeep = 0.2\n[optim]\naccumulate = 2\n"
)
MODEL = "presence = true\ncoordinates = true\nhypercolumn = true\ndropout = 0.1\n"


def with_model(text, more=MODEL):
    """Put lines into the section [model] of a run."""
    return text.replace("[image]", f"{more}[image]")


@pytest.fixture
def of(house):
    def build(more="", model="", **given):
        job = masked(more, **given)
        if model:
            path = job.files.config
            path.write_text(with_model(path.read_text(), model))
            job = job_of(job.competition, job.table)
        return job

    return build


def train(job, which=WHICH):
    check_names(job)
    fit_fold(job, which, Tracker(None))
    return which.files(job.files)


@pytest.mark.parametrize("classes, masks", [(2, ""), (3, "exclusive = true\n")])
def test_heads_start_at_the_shares_of_their_own_training_rows(of, monkeypatch, classes, masks):
    job = of(classes=classes, masks=masks, model='presence = true\nhead_bias = "prior"\nhead_init = "xavier"\n',
             more="[loss]\ndeep = 0.2\n")  # fmt: skip
    caught = []

    def catch(network, *args, **settings):
        caught.append(network)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.mask_fold.fit", catch)
    with pytest.raises(KeyboardInterrupt):
        train(job)
    network, table = caught[0], job.table
    mine = table.scored[table.folds[table.scored] != 1]
    cover = table.y[mine].mean(0)
    for part in (network.head, *network.deep):
        bias = list(part.parameters())[-1][:classes].detach()
        said = bias.exp() if masks else bias.sigmoid()
        np.testing.assert_allclose(said, cover.clip(1e-4, 1 - 1e-4), rtol=1e-4)
    there, least = (table.y[mine] > 0).mean(0), 0.5 / len(mine)
    np.testing.assert_allclose(network.presence.bias.detach().sigmoid(), there.clip(least, 1 - least), rtol=1e-4)


def log_of(files):
    lines = [json.loads(line) for line in files.log.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("given", [
    {},
    {"more": EVERYTHING, "model": MODEL},
    {"classes": 3, "more": "[sampling]\nequal = true\n", "metric": "iou"},
    {"classes": 3, "masks": "exclusive = true", "metric": "mean_iou", "more": "[loss]\nterms = {ce = 1.0, lovasz_softmax = 0.5}\n"},
    {"metric": "dsb_precision", "masks": "objects = true", "more": "[loss]\ndistance = 2.0\n"},
    {"metric": "tgs_precision", "more": '[sampling]\nnon_empty = [0.9, 0.5]\n[predict]\nshelf_scale = 0.5\ntta = "d4"\n'},
    {"classes": 3, "metric": "iou", "more": '[sampling]\nbalance = "parity"\n[adversarial]\nmethod = "fgsm"\n',
     "model": 'act = "gelu"\n'},
], ids=["plain", "everything", "several", "exclusive", "objects", "small shelf", "switches"])  # fmt: skip
def test_from_config_to_shelf(of, given):
    job = of(**given)
    files = train(job)
    predict_fold(job, WHICH, Tracker(None))
    table, receipt = job.table, json.loads(files.receipt.read_text())
    mine = table.scored[table.folds[table.scored] == 1]
    assert np.isin(read_npy(files.rows), table.scored[table.folds[table.scored] != 1]).all()
    assert len(read_npy(files.rows)) == N - len(mine)
    truth, scores = truth_of(job), []
    for path, rows in [(files.oof, mine), (files.test, table.test), (files.holdout, table.holdout)]:
        maps = Maps(read_npy(path), maps_layout(job, rows))
        assert len(maps) == len(rows)
        assert 0 <= maps.flat.min() <= maps.flat.max() <= 1
    assert (len(table.test), len(table.holdout)) == (TEST, HELD)
    metric = MASK_METRICS[job.metric.name]
    maps = Maps(read_npy(files.oof), maps_layout(job, mine))
    for i, row in enumerate(mine.tolist()):
        guess = decide(maps[i], maps.present(i), Decision(), truth[row].shape[1:], job.competition.masks.exclusive)
        if not metric.objects:
            scores.append(metric.stats(truth[row], guess))
    if scores:
        wanted = metric.reduce(np.stack(scores), np.ones(len(mine)))
        assert receipt["metrics"][metric.name] == pytest.approx(wanted, abs=1e-9)
    seen = read_npy(files.epochs)
    assert np.isnan(seen[table.folds[table.scored] == 1]).all()
    assert np.nansum(seen) == 2 * (N - len(mine))
    for line in log_of(files):
        if "valid_loss" in line:
            assert np.isfinite(line["valid_loss"])
            assert f"valid_{metric.name}" in line


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resume_is_the_same(of, workers, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("PODIUM_WORKERS", workers)
    job = of(more=EVERYTHING + "[predict]\nbatch_size = 5\n[sampling]\nnon_empty = [1.0, 0.5]\n", model=MODEL)
    job.files.config.write_text(job.files.config.read_text().replace("epochs = 2", "epochs = 4"))
    job = job_of(job.competition, job.table)
    files = train(job)
    whole, log = load_file(files.model), log_of(files)
    files.model.unlink()

    class Killed(Exception):
        pass

    def tracker(entry):
        if entry["epoch"] == 2:
            raise Killed

    killed = Tracker(None)
    with monkeypatch.context() as patch:
        patch.setattr(killed, "log", tracker, raising=False)
        with pytest.raises(Killed):
            fit_fold(job, WHICH, killed)
    torch.manual_seed(999)
    files = train(job)
    again = load_file(files.model)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert log_of(files) == log


@pytest.mark.parametrize("more", ["[average]\nswa = 0.3\n", "[average]\nsoup = 2\n", '[optim]\nname = "sgd"\n'])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_averages_and_precisions(of, more, precision):
    job = of(more=more + "[augment]\nmixup = 1.0\n")
    job = replace(job, machine=Machine("cpu", precision, 1))
    files = train(job)
    predict_fold(job, WHICH, Tracker(None))
    assert all(np.isfinite(line["loss"]) for line in log_of(files) if "loss" in line)
    maps = read_npy(files.oof)
    assert np.isfinite(maps).all()
    assert maps.std() > 0


def test_a_published_network(of):
    job = of(more="[average]\nema = 0.9\n[loss]\ndeep = 0.5\n")
    text = job.files.config.read_text().replace('name = "small_unet"', 'name = "unetplusplus"\nencoder = "test_resnet"')
    text = text.replace("options = { widths = [4, 6, 8] }", "options = { decoder_channels = [16, 8, 8, 8, 4] }")
    job.files.config.write_text(text.replace("size = 16", "size = 32"))
    job = job_of(job.competition, job.table)
    files = train(job)
    predict_fold(job, WHICH, Tracker(None))
    assert np.isfinite(read_npy(files.oof)).all()


def test_the_epoch_is_chosen_on_other_folds(of):
    job = of()
    job.files.config.write_text(job.files.config.read_text().replace("epochs = 2", 'epochs = 2\nselect = "best"'))
    job = job_of(job.competition, job.table)
    for k in range(3):
        train(job, Which((k,)))
    choose_epochs(job)
    for k in range(3):
        files = Which((k,)).files(job.files)
        assert header_of(files.model)["epoch"] in (0, 1)
        predict_fold(job, Which((k,)), Tracker(None))
        assert json.loads(files.receipt.read_text())["chosen_on"] == [j for j in range(3) if j != k]


def test_it_learns_discs(of):
    job = of(more='[optim]\nlr = 0.02\n[augment]\nrecipe = "none"\n', folds=3)
    job.files.config.write_text(job.files.config.read_text().replace("epochs = 2", "epochs = 30"))
    job = job_of(job.competition, job.table)
    files = train(job)
    lines = [line for line in log_of(files) if "valid_loss" in line]
    assert lines[-1]["valid_loss"] < 0.5 * lines[0]["valid_loss"]
    assert lines[-1]["valid_dice"] > 0.75


def test_padding_never_counts(of):
    """What is scored is the image at its own size."""
    job = of(more="", model="")
    train(job)
    network = fitted(job, WHICH.files(job.files).model)
    images, _ = job.ragged(job.table.scored)
    held_out = np.flatnonzero(job.table.folds[job.table.scored] == 1)
    found = measured(job, network, images, held_out)
    assert set(found) == {"valid_loss", "valid_dice"}


def test_the_alarm_rings(of, caplog, monkeypatch):
    """Scores far below zero, and a rate that moves nothing."""
    job = of(more="[optim]\nlr = 1e-9\n")
    job.files.config.write_text(job.files.config.read_text().replace("epochs = 2", "epochs = 4"))
    job = job_of(job.competition, job.table)
    real = engine._step

    def step(network, *rest):
        with torch.no_grad():
            network.head.bias.fill_(-50)
        return real(network, *rest)

    monkeypatch.setattr(engine, "_step", step)
    with caplog.at_level(logging.WARNING):
        train(job)
    assert sum("predicts empty masks alone" in record.getMessage() for record in caplog.records) == 1


def test_statistics_of_the_training_rows(of):
    job = of()
    job.files.config.write_text(job.files.config.read_text().replace("size = 16", 'size = 16\nnormalize = "train"'))
    job = job_of(job.competition, job.table)
    files = train(job)
    images, _ = job.ragged(job.table.scored)
    mine = np.flatnonzero(job.table.folds[job.table.scored] != 1)
    wanted = np.mean([images[int(i)].mean() / 255 for i in mine])
    assert load_file(files.model)["mean"].item() == pytest.approx(wanted, rel=1e-5)


def test_sampling_reaches_the_lessons(of):
    job = of(more="[sampling]\nnon_empty = [0.9, 0.4]\n")
    gold = np.arange(6)
    lessons, show = lessons_of(job, gold)
    assert (lessons.non_empty, show) == ((0.9, 0.4), (1,))
    assert (lessons.shows[:, 0] == (job.table.y[job.table.labelled[gold], 0] > 0)).all()
    job.files.config.write_text(job.files.config.read_text().replace("non_empty = [0.9, 0.4]", "equal = true"))
    assert lessons_of(job_of(job.competition, job.table), gold)[1] == (0,)
    for line in ('balance = "parity"', "repeat = { c0 = 3 }", 'balance = "under"'):
        job.files.config.write_text(job.files.config.read_text().replace("equal = true", line))
        lessons, show = lessons_of(job_of(job.competition, job.table), gold)
        there = job.table.y[job.table.labelled[gold], 0] > 0
        wanted = {"b": len(gold) / np.where(there, there.sum(), (~there).sum()) / 2, "r": 1 + 2 * there}
        if lessons.draw is not None:
            ratio = lessons.draw / wanted[line[0]]
            np.testing.assert_allclose(ratio, ratio[0])
        assert lessons.under == line.endswith('under"')
        assert show == ()
        job.files.config.write_text(job.files.config.read_text().replace(line, "equal = true"))


def test_other_runs_may_be_the_start(of):
    job = of()
    files = train(job)
    RunFiles("toy/b").config.write_text(
        job.files.config.read_text().replace('stage = "train"', 'stage = "train"\ninit = "toy/a"').replace("epochs = 2", "epochs = 1")
        + "[optim]\nlr = 1e-12\nweight_decay = 0.0\n"
    )  # fmt: skip
    predict_fold(job, WHICH, Tracker(None))
    other = job_of(job.competition, job.table, "toy/b")
    start, end = load_file(files.model), load_file(train(other).model)
    assert all(torch.allclose(start[n], end[n], atol=1e-6) for n in start if n.endswith("weight"))
