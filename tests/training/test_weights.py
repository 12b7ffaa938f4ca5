"""Weights on the shelf: what their header says, which epoch is chosen, where training starts from."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from house import write
from safetensors.torch import load_file, save_file
from school import job_of, receipt, stage

from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.training.job import new_network
from pipeline.training.weights import choose_epochs, curve, header_of, is_fitted, save_weights, start_from
from pipeline.training.which import Which


def test_header_is_read_without_torch(school):
    header = header_of(school / "runs/toy/a/fold1/model.safetensors")
    assert header == {"key": receipt("toy/a")["fit_hash"], "epoch": 1}
    assert header_of(school / "nothing.safetensors") == {}


def test_weights_of_others_have_no_header_of_ours(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert header_of(tmp_path / "w.safetensors") == {}
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert header_of(tmp_path / "w.safetensors") == {}


def test_the_same_weights_are_the_same_bytes(school):
    network = new_network(job_of("toy/a"))
    for name in "xy":
        save_weights(school / f"{name}.safetensors", network, key="k", epoch=3, curve=[0.1, 0.2])
    assert (school / "x.safetensors").read_bytes() == (school / "y.safetensors").read_bytes()
    assert header_of(school / "x.safetensors") == {"key": "k", "epoch": 3, "curve": [0.1, 0.2]}
    loaded, state = load_file(school / "x.safetensors"), network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def put(job, which, epochs, key="fit"):
    """Weights of some epochs, each as its score says, and the rows and epochs of a finished fit."""
    files = which.files(job.files)
    for epoch, score in enumerate(epochs):
        network = new_network(job)
        with torch.no_grad():
            network.head.bias.fill_(epoch)
        save_weights(files.epoch(epoch), network, key=key, epoch=epoch, curve=[score])
    for path in (files.rows, files.epochs):
        np.save(path, np.zeros(1))


@pytest.mark.parametrize("missing", ["", "epoch", "rows", "epochs", "key"])
def test_what_is_fitted(school, missing):
    """Rows and epoch statistics cannot be had again from the weights: without them a fit is not done."""
    write("best", 'base = "a"\nselect = "best"\nepochs = 3\n')
    best, last = job_of("toy/best"), job_of("toy/s", halves=True)
    put(best, Which((0,)), [0.1, 0.2, 0.3], key="other" if missing == "key" else "fit")
    which = Which((1,), 0)
    files = which.files(last.files)
    save_weights(files.model, new_network(last), key="other" if missing == "key" else "fit", epoch=1)
    for shelf in (Which((0,)).files(best.files), files):
        path = {"epoch": shelf.epoch(1), "rows": shelf.rows, "epochs": shelf.epochs}.get(missing)
        if path is not None:
            path.unlink(missing_ok=True)
    assert is_fitted(best, Which((0,))) == (missing == "")
    assert is_fitted(last, which) == (missing in ("", "epoch"))
    assert not is_fitted(last, Which((1,)))


def test_a_run_without_its_statistics_is_trained_again(school):
    """One deleted file of a fit must not end in a traceback, nor in other bytes."""
    kept = (school / "runs/toy/a/fold1/rows.npy").read_bytes()
    predicted = (school / "runs/toy/a/oof.npy").read_bytes()
    for name in ("fold1/rows.npy", "fold2/epochs.npy", "cv.json"):
        (school / "runs/toy/a" / name).unlink()
    stage("train", "toy/a")
    assert (school / "runs/toy/a/fold1/rows.npy").read_bytes() == kept
    assert (school / "runs/toy/a/fold2/epochs.npy").exists()
    assert (school / "runs/toy/a/oof.npy").read_bytes() == predicted


def test_rows_of_another_config_are_never_taken_for_those_of_this_one(school, monkeypatch):
    """Killed after the last epoch was kept and before its rows were written, on the shelf of another config."""
    rows = school / "runs/toy/a/fold0/rows.npy"
    wanted = rows.read_bytes()
    np.save(rows, np.zeros(3, np.int32))  # the other config learnt from other rows
    path = school / "configs/toy/a.toml"
    path.write_text('select = "best"\n' + path.read_text())

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.fold.write_npy", killed)
        with pytest.raises(KeyboardInterrupt):
            stage("train", "toy/a")
    assert (school / "runs/toy/a/fold0/epoch1.safetensors").exists()
    stage("train", "toy/a")
    assert rows.read_bytes() == wanted


def test_the_epoch_is_chosen_without_the_own_fold_and_both_its_halves(school):
    write("best", 'base = "s"\nselect = "best"\nepochs = 3\n')
    job = job_of("toy/best", halves=True)
    curves = {
        0: [[9.0, 0.1, 0.1], [9.0, 0.1, 0.0]],  # either half of the own fold would take epoch 0
        1: [[0.2, 0.3, 0.9], [0.2, 0.8, 0.1]],
        2: [[0.1, 0.2, 0.5], [0.1, 0.7, 0.2]],
    }
    for k, halves in curves.items():
        for half, scores in enumerate(halves):
            put(job, Which((k,), half), scores)
    choose_epochs(job)
    for k in range(3):
        others = np.mean([scores for j, halves in curves.items() if j != k for scores in halves], 0)
        for half in (0, 1):
            which = Which((k,), half)
            files = which.files(job.files)
            header = header_of(files.model)
            assert header == {"key": "fit", "epoch": int(np.argmax(others)), "curve": curves[k][half]}
            assert load_file(files.model)["head.bias"].tolist() == [header["epoch"]] * 4
            assert not list(files.folder.glob("epoch*.safetensors"))
            assert curve(job, which) == curves[k][half]
    assert header_of(Which((0,), 0).files(job.files).model)["epoch"] != 0


def test_the_epoch_is_chosen_within_the_repeat(school):
    write("best", 'base = "a"\nselect = "best"\nepochs = 3\n')
    job = job_of("toy/best")
    job = replace(job, table=replace(job.table, further=job.table.folds[:, None]))
    for k in range(3):
        put(job, Which((k,)), [0.1, 0.2, 0.3])
        put(job, Which((k,), repeat=1), [9.0, 0.1, 0.1])  # models of repeat 1 are scored on rows of fold k too
    choose_epochs(job)
    epochs = [header_of(which.files(job.files).model)["epoch"] for which in job.models]
    assert epochs == [2, 2, 2, 0, 0, 0]


def test_epochs_without_a_score_are_not_chosen(school):
    write("best", 'base = "a"\nselect = "best"\nepochs = 3\n')
    job = job_of("toy/best")
    for k in range(3):
        put(job, Which((k,)), [float("nan"), 0.2, 0.1])
    choose_epochs(job)
    assert header_of(Which((1,)).files(job.files).model)["epoch"] == 1


def test_the_epoch_is_chosen_by_the_loss(school):
    write("best", 'base = "a"\nselect = "best"\nselect_by = "loss"\nepochs = 3\n')
    job = job_of("toy/best")
    for k, losses in enumerate([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, float("nan")]]):
        put(job, Which((k,)), losses)
    choose_epochs(job)
    assert [header_of(which.files(job.files).model)["epoch"] for which in job.models] == [1, 0, 1]


def test_choice_by_loss_reaches_the_shelf(school, monkeypatch):
    """What is kept of an epoch is the loss of the rows that the model did not see, as the log has it."""
    path = school / "configs/toy/a.toml"
    path.write_text('select = "best"\nselect_by = "loss"\n' + path.read_text())
    stage("train", "toy/a")
    folds = [school / f"runs/toy/a/fold{k}" for k in range(3)]
    logs = [[json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()] for fold in folds]
    curves = [[entry["valid_loss"] for entry in lines if "valid_loss" in entry] for lines in logs]
    for k, fold in enumerate(folds):
        header = header_of(fold / "model.safetensors")
        assert header["curve"] == curves[k]
        assert header["epoch"] == np.argmin(np.mean([curves[j] for j in range(3) if j != k], 0))


# Where to start from


def started(job, which):
    network = new_network(job)
    torch.manual_seed(9)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_()
    network.center, network.spread = torch.tensor([7.0]), torch.tensor([3.0])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_from(job, which, network)
    return before, network.state_dict()


@pytest.mark.parametrize("name, which, source", [
    ("s", Which((1,), 0), "s/fold1/half0"),  # a round from the round before
    ("s", Which((2,), 1), "s/fold2/half1"),
    ("a", Which((2,), 1), "a/fold2"),  # the halves of the first round
    ("a", Which((1,)), "a/fold1"),
])  # fmt: skip
def test_every_model_starts_from_the_same_model(school, name, which, source):
    write("n", f'base = "a"\ninit = "{name}"\n')
    before, after = started(job_of("toy/n"), which)
    wanted = load_file(f"runs/toy/{source}/model.safetensors")
    for key in after:
        kept = key in ("center", "spread")  # of this model's own training rows
        assert torch.equal(after[key], before[key] if kept else wanted[key]), key
    assert not torch.equal(wanted["head.weight"], before["head.weight"])


def test_a_head_of_another_shape_starts_anew(school):
    write("i", 'base = "a"\nindicators = true\n')
    write("n", 'base = "a"\ninit = "i"\n')
    job = job_of("toy/i")
    save_weights(Which((0,)).files(job.files).model, new_network(job), key="k")
    before, after = started(job_of("toy/n"), Which((0,)))
    wanted = load_file("runs/toy/i/fold0/model.safetensors")
    assert wanted["head.weight"].shape == (5, 16)
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert torch.equal(after["backbone.layers.0.weight"], wanted["backbone.layers.0.weight"])


def test_another_network_is_refused(school):
    for options in ("widths = [8, 12]", "widths = [8]", "widths = [8, 16, 16]"):
        write("n", f'base = "a"\ninit = "b"\n[model]\noptions = {{ {options} }}\n')
        with pytest.raises(
            UserError, match=r"init = 'toy/b': .*fold0/model.safetensors is of another network than 'cnn'"
        ):
            started(job_of("toy/n"), Which((0,)))


def test_a_missing_model_is_named(school):
    write("n", 'base = "a"\ninit = "s"\n')
    with pytest.raises(UserError, match="init = 'toy/s' has no .*fold2/model.safetensors: it needs a model for fold 2"):
        started(job_of("toy/n"), Which((2,)))
    shutil.rmtree(RunFiles("toy/s").fold(1).folder)
    with pytest.raises(UserError, match="a model for fold 1 half 1"):
        started(job_of("toy/n"), Which((1,), 1))
