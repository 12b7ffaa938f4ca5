"""Classifiers on features that stay, and the prior taken out: against scikit-learn and by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from house import make_competition, prepare, stage, write
from safetensors.torch import load_file
from school import job_of, learn
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch import nn

from pipeline.store.artifacts import RunFiles
from pipeline.store.keys import read_table_facts, train_keys
from pipeline.tasks import TASKS
from pipeline.training import posthoc
from pipeline.training.posthoc import nearest_mean, normalise, predictor
from pipeline.training.readable import labelled_images
from pipeline.training.weights import fitted_network
from pipeline.training.which import Which

RNG = np.random.default_rng(0)


def invented(task, y, classes, head="classification"):
    """A job of rows whose targets are given, and features that tell of them."""
    table = SimpleNamespace(y=np.asarray(y, float).reshape(len(y), -1), classes=list("abcdef"[:classes]))
    return SimpleNamespace(task=TASKS[task], head=head, table=table)


def features(y, spread=1.0, width=6):
    return torch.tensor(np.eye(width)[y] * 2 + RNG.normal(0, spread, (len(y), width)) + 0.5, dtype=torch.float32)


def test_the_nearest_mean_is_that_of_scikit_learn():
    y = np.repeat([0, 1, 2], [60, 12, 4])
    x, new = features(y), features(np.arange(3).repeat(30), 1.5)
    head = nearest_mean(invented("multiclass", y, 3), x, np.arange(len(y)))
    centres = NearestCentroid().fit(normalize(x), y).centroids_
    cosines = normalize(new) @ normalize(centres).T
    assert np.array_equal(head(new).argmax(1), cosines.argmax(1))
    np.testing.assert_allclose(head(new).detach() / head.scale, cosines, atol=1e-5)


def test_the_scale_is_that_of_the_least_balanced_loss():
    y = np.repeat([0, 1], [40, 10])
    x = features(y)
    head = nearest_mean(invented("multiclass", y, 2), x, np.arange(50))
    weight = np.where(y == 0, 1 / 40, 1 / 10)

    def lost(scale):
        p = softmax((head(x) * scale / head.scale).detach().double().numpy(), 1)
        return -(weight * np.log(p[np.arange(50), y])).sum()

    assert lost(head.scale) <= min(lost(scale) for scale in np.geomspace(1, 100, 200)) + 1e-4


def test_questions_are_answered_by_both_means():
    y = (RNG.random((50, 2)) < [0.5, 0.1]).astype(float)
    x = torch.tensor(np.column_stack([y, RNG.normal(0, 0.3, (50, 3))]), dtype=torch.float32)
    y[3, 0] = np.nan
    head = nearest_mean(invented("multilabel", y, 2), x, np.arange(50))
    unit = normalize(x)
    for label in range(2):
        yes, no = (normalize(unit[y[:, label] == side].mean(0, keepdims=True)) for side in (1, 0))
        np.testing.assert_allclose(head(x)[:, label].detach() / head.scale, (unit @ (yes - no).T)[:, 0], atol=1e-5)


def test_a_class_without_rows_is_never_said():
    y = np.repeat([0, 2], 10)
    x = features(y)
    assert set(nearest_mean(invented("multiclass", y, 3), x, np.arange(20))(x).argmax(1).tolist()) == {0, 2}


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_tau_normalisation_is_that_of_the_paper(tau):
    head = nn.Linear(5, 3)
    was, x = head.weight.detach().clone().numpy(), torch.rand(20, 5)
    normalise(head, tau)
    length = np.linalg.norm(was, axis=1, keepdims=True)
    plain = x.numpy() @ (was / length**tau).T
    assert np.array_equal(head(x).detach().argmax(1), plain.argmax(1))
    np.testing.assert_allclose(head(x).detach(), plain * length.mean() ** tau, rtol=1e-4, atol=1e-6)
    assert (head.bias == 0).all()


SWITCHES = {
    "crt": "[decouple]\nmethod = 'crt'\nshare = 1.0\n",
    "ncm": "[decouple]\nmethod = 'ncm'\n",
    "tau": "[decouple]\nmethod = 'tau'\n",
    "prior": "[predict]\nlogit_adjust = 1.5\n",
}


def test_nothing_is_trained_again(school):
    job = job_of("toy/a")
    facts = read_table_facts(job.files.competition)
    before = train_keys(job.config, job.competition, facts)
    for name, text in SWITCHES.items():
        write(name, f'base = "a"\n{text}')
        after = train_keys(job_of(f"toy/{name}").config, job.competition, facts)
        assert after[0] == before[0]
        assert after[1] != before[1]


def test_the_prior_is_taken_out_of_the_rows_that_were_trained_on(school):
    write("prior", f'base = "a"\n{SWITCHES["prior"]}')
    stage("train", "toy/prior")
    job = job_of("toy/a")
    folds, y = job.table.folds[job.table.scored], job.table.y[job.table.scored, 0].astype(int)
    plain, oof = (np.load(RunFiles(run).oof) for run in ("toy/a", "toy/prior"))
    for k in range(3):
        share = np.bincount(y[folds != k], minlength=4) / (folds != k).sum()
        odds = plain[folds == k] / share**1.5
        np.testing.assert_allclose(oof[folds == k], odds / odds.sum(1, keepdims=True), rtol=1e-4)
        test = np.load(RunFiles("toy/a").fold(k).test) / share**1.5
        np.testing.assert_allclose(
            np.load(RunFiles("toy/prior").fold(k).test), test / test.sum(1, keepdims=True), rtol=1e-4
        )


@pytest.mark.parametrize("name", ["crt", "ncm", "tau"])
def test_another_head_stands_on_the_same_features(school, name):
    write("n", f'base = "a"\n{SWITCHES[name]}')
    stage("train", "toy/n")
    one, other = RunFiles("toy/a"), RunFiles("toy/n")
    assert not np.array_equal(np.load(one.oof), np.load(other.oof))
    for k in range(3):
        before, after = load_file(one.fold(k).model), load_file(other.fold(k).model)
        assert all(torch.equal(before[key], after[key]) for key in before)
        np.testing.assert_array_equal(np.load(one.fold(k).embeddings), np.load(other.fold(k).embeddings))
        again = predictor(job_of("toy/n"), Which((k,))).head.state_dict()
        assert all(torch.equal(a, b) for a, b in zip(
            again.values(), predictor(job_of("toy/n"), Which((k,))).head.state_dict().values(), strict=True))  # fmt: skip


def test_no_head_sees_its_fold(school):
    """Other labels of fold 1 leave the heads of its model as they are, and change those of others."""
    job = job_of("toy/a")
    mine, y = job.table.folds == 1, job.table.y.copy()
    y[mine, 0] = (y[mine, 0] + 1) % 4
    other = replace(job, table=replace(job.table, y=y))
    for name in ("crt", "ncm", "prior"):
        write("n", f'base = "a"\n{SWITCHES[name]}')
        config = job_of("toy/n").config
        heads = {}
        for label, given in (("as it is", job), ("other", other)):
            posed = replace(given, config=config)
            heads[label] = [predictor(posed, Which((k,))).head.state_dict() for k in (1, 2)]
        same = [
            all(torch.equal(a[key], b[key]) for key in a)
            for a, b in zip(heads["as it is"], heads["other"], strict=True)
        ]
        assert same == [True, False], name


def test_a_head_that_is_trained_anew_is_that_of_a_balanced_regression(school):
    """Long and without decay it comes to the optimum that scikit-learn finds, classes weighing alike."""
    write("n", 'base = "a"\nepochs = 400\n[optim]\nlr = 0.05\nweight_decay = 0.0\n' + SWITCHES["crt"])
    job = job_of("toy/n")
    network = fitted_network(job_of("toy/a"), RunFiles("toy/a").fold(0).model)
    _, course = learn("toy/a", 0)
    gold = course.lessons.gold
    x = posthoc.seen_by_head(job, network, labelled_images(job)[0], gold)
    head = posthoc.retrained(job, Which((0,)), network)
    y = job.table.y[job.table.scored, 0].astype(int)[gold]
    best = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=5000).fit(x.numpy(), y)
    weight = (len(y) / (4 * np.bincount(y)))[y]
    loss = nn.functional.cross_entropy(head(x), torch.tensor(y), reduction="none").detach().numpy()
    least = -np.log(best.predict_proba(x.numpy())[np.arange(len(y)), y])
    start = np.log(4)
    assert (weight * loss).mean() - (weight * least).mean() < 0.1 * (start - (weight * least).mean())


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("fit", ["network", "linear"])
def test_questions_are_adjusted_one_by_one(house, task, fit):
    make_competition(house, task)
    prepare()
    write("p", f'base = "a"\nfit = "{fit}"\n')
    write("q", 'base = "p"\n[predict]\nlogit_adjust = 1.0\n')
    stage("train", "toy/p")
    stage("train", "toy/q")
    job = job_of("toy/p")
    folds, y = job.table.folds[job.table.scored], job.table.y[job.table.scored]
    plain, oof = (np.load(RunFiles(run).oof) for run in ("toy/p", "toy/q"))
    for k in range(3):
        share = y[folds != k].mean(0)
        np.testing.assert_allclose(
            oof[folds == k], expit(logit(plain[folds == k]) - logit(share)), rtol=2e-3, atol=1e-5
        )


def test_full_refits_predict_with_the_same_head(school):
    write("full", 'stage = "full"\nrun = "a"\nseeds = 1\n')
    said, text = [], (school / "configs/toy/a.toml").read_text()
    for more in ("", SWITCHES["prior"]):
        write("a", text + more)
        stage("train", "toy/a")
        stage("full", "toy/full")
        said.append(np.array(np.load(RunFiles("toy/full").test)))
    odds = said[0] / (np.bincount(job_of("toy/a").table.y[:60, 0].astype(int)) / 60) ** 1.5
    np.testing.assert_allclose(said[1], odds / odds.sum(1, keepdims=True), rtol=1e-4)
