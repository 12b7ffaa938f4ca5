"""Batch norms adapted to the images that are predicted, against statistics that can be had by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from house import make_competition, prepare, stage, write
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import masked
from school import job_of
from torch import nn

from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, read_json, write_json
from pipeline.training.adapt import adapted, mixed, share_of, to_maps, to_rows
from pipeline.training.job import any_network, check_names, new_network
from pipeline.training.layers import norms_of


def images(n, seed=0):
    return 3 + 2 * torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def one_norm():
    norm = nn.BatchNorm2d(2)
    norm.running_mean, norm.running_var = torch.tensor([1.0, -1.0]), torch.tensor([4.0, 0.5])
    return norm.eval()


@settings(deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 40), share=st.floats(0.01, 1))
def test_statistics_are_those_of_all_images_however_they_are_batched(n, size, share):
    x, norm = images(n), one_norm()
    twin = adapted(norm, share, lambda net: [net(part) for part in x.split(size)])
    wide = x.double()
    for found, before, target in (
        (twin.running_mean, norm.running_mean, wide.mean((0, 2, 3))),
        (twin.running_var, norm.running_var, wide.var((0, 2, 3), correction=0)),
    ):
        torch.testing.assert_close(found, ((1 - share) * before + share * target).float(), rtol=1e-4, atol=1e-4)
    assert norm.running_mean.tolist() == [1, -1]  # that of the model stays
    assert not twin.training


def test_a_layer_sees_what_those_before_it_make_of_the_target():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    x = images(50)
    twin = adapted(net, 1.0, lambda n: n(x))
    inner = twin[2](twin[1](twin[0](x)))
    torch.testing.assert_close(twin[3].running_mean, inner.mean((0, 2, 3)).detach())
    out = twin(x).detach()
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-3)
    assert not norms_of(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2)))


def test_brightness_and_contrast_are_taken_out():
    """The seconds-long check: an affine change of a layer's input changes nothing once it is adapted to."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)).eval(), images(50)
    plain, changed = (adapted(net, 1.0, lambda n, y=y: n(y))(y) for y in (x, 0.3 * x + 5))
    torch.testing.assert_close(plain, changed, rtol=1e-3, atol=1e-3)
    assert (net(x) - net(0.3 * x + 5)).abs().max() > 1


def test_a_prior_counts_as_so_many_images():
    how = SimpleNamespace(bn="blend", bn_prior=16)
    job = SimpleNamespace(config=SimpleNamespace(predict=how))
    assert [share_of(job, n) for n in (0, 16, 48)] == [0, 0.5, 0.75]
    how.bn = "replace"
    assert [share_of(job, n) for n in (0, 16)] == [0, 1]
    how.bn = "off"
    assert share_of(job, 16) == 0


@settings(deadline=None)
@given(n=st.integers(0, 30))
def test_batches_are_mixed_the_same_every_time(n):
    rows = np.arange(n)
    assert np.array_equal(np.sort(mixed(rows)), rows)
    assert np.array_equal(mixed(rows), mixed(rows))


def test_own_rows_and_test_rows_are_adapted_to_apart(house):
    make_competition(house, "multiclass")
    prepare()
    write("n", 'base = "a"\npredict.bn = "replace"\n')
    stage("train", "toy/a")
    stage("train", "toy/n")
    for k in range(3):
        old, new = (RunFiles(run).fold(k) for run in ("toy/a", "toy/n"))
        assert old.model.read_bytes() == new.model.read_bytes()
        for name in ("oof", "test"):
            assert not np.array_equal(np.load(getattr(old, name)), np.load(getattr(new, name)))
        rows = np.isin(job_of("toy/n").table.scored, np.load(new.rows))
        assert np.array_equal(np.load(old.train)[rows], np.load(new.train)[rows])  # it is not adapted to these
        assert np.array_equal(np.load(new.train)[~rows], np.load(new.oof))
    report = audited("toy/n")
    assert not report.findings
    assert "without their labels" in report.tree[0]
    assert "without" not in audited("toy/a").tree[0]
    told = read_json(new.receipt)
    told["adapted"]["fold"] = told["adapted"]["test"]
    write_json(new.receipt, told)
    sign("toy/n")
    assert "for what it predicts of the fold, to other" in str(audited("toy/n").findings)


def sign(run):
    """Write the hashes of today's files into the receipts of a run, models first: a lie is not a broken hash."""
    for path in sorted(Path("runs", run).rglob("*.json"), key=lambda path: -len(path.parts)):
        if path in (RunFiles(run).receipt, *RunFiles(run).fold_receipts()):
            receipt = read_json(path)
            write_json(path, receipt | {"outputs": {name: digest_file(Path(name)) for name in receipt["outputs"]}})


def audited(run):
    from pipeline.audit.refit import refit
    from pipeline.audit.report import audit

    return audit(run, refit)


def posed(house, lines):
    """Return the job of a run, its untrained network and the pictures of the scored rows."""
    make_competition(house, "binary")
    prepare()
    write("n", f'base = "a"\n{lines}\n')
    job = job_of("toy/n")
    torch.manual_seed(0)
    return job, new_network(job), job.images(job.table.scored)[0]


def test_a_fold_does_not_change_what_is_said_of_test(house):
    """Neither do test rows change what is said of a fold: each is adapted to by itself."""
    job, network, pictures = posed(house, '[predict]\nbn = "blend"\nbatch_size = 7')
    one, two, same = (
        [norm.running_mean for norm in norms_of(to_rows(job, network, pictures, np.array(rows)))]
        for rows in (range(10), range(20), range(10))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], two[0])
    assert to_rows(job, network, pictures, np.arange(0)) is network
    off = replace(
        job, config=job.config.model_copy(update={"predict": job.config.predict.model_copy(update={"bn": "off"})})
    )
    assert to_rows(off, network, pictures, np.arange(10)) is network


def test_statistics_are_of_the_patches_of_the_images(house):
    """Of all of them, of images that are adapted to and of no other; an image counts once against the prior."""
    job, network, pictures = posed(
        house, 'predict.bn = "blend"\npredict.bn_prior = 10\n[patches]\nsize = 6\nstride = 3'
    )
    rows, corners = np.array([3, 7, 8, 20, 41]), [(top, left) for top in (0, 3, 6) for left in (0, 3, 6)]
    seen = [pictures[rows][:, top : top + 6, left : left + 6] for top, left in corners]
    shown = torch.from_numpy(np.concatenate(seen)).permute(0, 3, 1, 2)
    first = norms_of(network)[0]
    inputs = []
    hook = first.register_forward_pre_hook(lambda norm, x: inputs.append(x[0].detach().double()))
    with torch.inference_mode():
        network.eval()(shown if network.reads_bytes else shown.float() / 255)
    hook.remove()
    norm = norms_of(to_rows(job, network, pictures, rows))[0]
    share, dims = 5 / 15, (0, 2, 3)
    wanted = share * inputs[0].mean(dims) + (1 - share) * first.running_mean
    torch.testing.assert_close(norm.running_mean.double(), wanted, atol=1e-5, rtol=1e-4)
    wanted = share * inputs[0].var(dims, correction=0) + (1 - share) * first.running_var
    torch.testing.assert_close(norm.running_var.double(), wanted, atol=1e-5, rtol=1e-4)
    others = np.setdiff1d(np.arange(len(pictures)), rows)
    assert not torch.equal(norms_of(to_rows(job, network, pictures, others))[0].running_mean, norm.running_mean)


def test_patches_of_own_rows_and_of_test_are_adapted_to_apart(house):
    """What is kept of each patch is said by the model that is adapted to it, also of pairs and the holdout."""
    make_competition(house, "multiclass", extra="holdout = 0.2\n")
    prepare()
    cut = 'base = "a"\nepochs = 1\npairs = true\n[patches]\nsize = 6\n'
    write("p", cut)
    write("n", cut + '[predict]\nbn = "replace"\n')
    for name in ("p", "n"):
        stage("train", f"toy/{name}")
    folds = job_of("toy/n").table.folds[job_of("toy/n").table.scored]
    for held_out in ((0,), (0, 2)):
        single = len(held_out) == 1
        old, new = (RunFiles(f"toy/{n}") for n in "pn")
        old, new = (f.fold(*held_out) if single else f.pair(*held_out) for f in (old, new))
        own, before, after = np.isin(folds, held_out), np.load(old.patches), np.load(new.patches)
        assert np.array_equal(before[~own], after[~own])  # it learnt from these, and is not adapted to them
        assert (before[own] != after[own]).any((1, 2)).all()
        for name in ("test_patches", "holdout_patches") if single else ():
            assert not np.array_equal(np.load(getattr(old, name)), np.load(getattr(new, name)))
    assert not audited("toy/n").findings


@pytest.mark.parametrize("fit", ["resize", "tiles"])
def test_masks_are_predicted_so_too(house, fit):
    job = masked(f'fit = "{fit}"\n[predict]\nbn = "replace"\n')
    torch.manual_seed(0)
    network, (pictures, _) = any_network(job), job.ragged(job.table.scored)
    rows = np.arange(6)
    twin = to_maps(job, network, pictures, rows)
    again = to_maps(job, network, pictures, rows)
    for norm, other, before in zip(norms_of(twin), norms_of(again), norms_of(network), strict=True):
        assert torch.equal(norm.running_mean, other.running_mean)
        assert not torch.equal(norm.running_var, before.running_var)
    assert to_maps(job, network, pictures, rows[:0]) is network


@pytest.mark.parametrize(
    "lines, said",
    [
        ('stage = "train"\npredict.bn = "replace"\nmodel.name = "test_vit"\nimage.size = 32\n', "adapts batch norms"),
        (
            'stage = "train"\nsemi.method = "target_forward"\nmodel.name = "test_vit"\nimage.size = 32\n',
            "adapts batch norms",
        ),
        ('base = "a"\nfit = "linear"\npredict.bn = "blend"\n', r"takes no predict\.bn"),
    ],
)
def test_without_batch_norms_there_is_nothing_to_adapt(house, lines, said):
    make_competition(house, "multiclass")
    prepare()
    write("n", lines)
    with pytest.raises(UserError, match=said) as caught:
        check_names(job_of("toy/n"))
    assert "\n" not in str(caught.value)
