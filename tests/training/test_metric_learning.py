"""Triplets, cosine heads with a margin and the neck: against loops, numpy, and torch's own batch norm."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from house import make_competition, prepare, stage, write
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS as TASKS
from safetensors.torch import load_file
from school import job_of
from test_engine import Killed, killer, same
from torch.nn import functional as F

from pipeline.competitions import digits
from pipeline.nets.models import build
from pipeline.nets.objective import Objective
from pipeline.preflight.material import material_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.imbalance import Sampling
from pipeline.training.balance import balanced
from pipeline.training.fold import fresh_network
from pipeline.training.lessons import plan
from pipeline.training.metric_learning import Margined, Tripled, add_margin, batch_hard
from pipeline.training.readable import labelled_images
from pipeline.training.sampling import Batches, Lessons
from pipeline.training.watch import Watch
from pipeline.training.which import Which

RNG = np.random.default_rng(0)


def network(**how):
    torch.manual_seed(0)
    return build("cnn", weights="none", options={"widths": [4]}, channels=1, size=(8, 8), outputs=3, pool="avg",
                 normalize="half", dropout=0.0, **how)  # fmt: skip


def by_hand(x, y, margin):
    """The batch-hard loss, row by row."""
    found = []
    for i in range(len(y)):
        away = [float(np.linalg.norm(x[i] - x[j])) for j in range(len(y))]
        like = [away[j] for j in range(len(y)) if y[j] == y[i] and j != i]
        other = [away[j] for j in range(len(y)) if y[j] != y[i]]
        if not like or not other:
            found.append(0.0)
        else:
            gap = max(like) - min(other)
            found.append(np.log1p(np.exp(gap)) if margin is None else max(0.0, gap + margin))
    return np.array(found)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 4), st.sampled_from([None, 0.0, 0.3, 2.0]), st.integers(0, 99))
def test_triplets_are_the_hardest_of_the_batch(n, classes, margin, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.integers(0, classes, n)
    got = batch_hard(torch.tensor(x, dtype=torch.float32), torch.tensor(y), margin)
    np.testing.assert_allclose(got, by_hand(x, y, margin), atol=1e-5)
    order = rng.permutation(n)
    again = batch_hard(torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order]), margin)
    torch.testing.assert_close(again, got[torch.as_tensor(order)])


@pytest.mark.parametrize("margin", [None, 0.3])
def test_gradients_of_triplets_draw_likes_together(margin):
    x = torch.tensor([[0.0], [2.0], [1.0], [5.0]], requires_grad=True)
    batch_hard(x, torch.tensor([0, 0, 1, 2]), margin).sum().backward()
    assert x.grad[0] < 0 < x.grad[1]  # the loss falls as they near each other
    assert x.grad[3] == 0  # has no like, and is nobody's nearest
    same = torch.ones(4, 3, requires_grad=True)  # where all are one no slope is infinite
    batch_hard(same, torch.tensor([0, 0, 1, 1]), margin).sum().backward()
    assert same.grad.isfinite().all()
    alone = torch.ones(3, 2, requires_grad=True)
    batch_hard(alone, torch.tensor([1, 1, 1]), margin).sum().backward()
    assert (alone.grad == 0).all()


@settings(deadline=None, max_examples=40)
@given(st.floats(0.0, 1.5), st.sampled_from([1.0, 30.0]), st.integers(0, 99))
def test_the_margin_is_an_angle(margin, scale, seed):
    rng = np.random.default_rng(seed)
    cosine, y = rng.uniform(-0.99, 0.99, (6, 4)), rng.integers(0, 4, 6)
    wanted = cosine.copy()
    for i, c in enumerate(y):
        angle = np.arccos(cosine[i, c]) + margin
        wanted[i, c] = np.cos(angle) if angle < np.pi else cosine[i, c] - margin * np.sin(margin)
    targets = torch.tensor(np.eye(4)[y], dtype=torch.float32)
    got = add_margin(torch.tensor(scale * cosine, dtype=torch.float32), targets, scale, margin)
    np.testing.assert_allclose(got, scale * wanted, atol=2e-4 * scale)


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.2])
def test_a_margin_never_helps_and_its_slope_is_finite_everywhere(margin):
    """The pitfall of an easy margin: a row on the wrong side must keep a margin, and more cosine must be more score."""
    cosine = torch.linspace(-1, 1, 401)[:, None].requires_grad_()
    made = add_margin(cosine, torch.ones(401, 1), 1.0, margin)
    assert (made <= cosine + 1e-6).all()
    assert (made.diff(dim=0) > -1e-6).all()
    if margin:
        assert (made < cosine)[:400].all()  # also of a cosine of -1; at +1 see the clamp
    made.sum().backward()
    assert cosine.grad.isfinite().all()
    assert (cosine.grad > 0).all()


def test_arcface_is_cross_entropy_of_shifted_cosines():
    y = RNG.integers(0, 3, 7)
    made = Objective(TASKS["multiclass"], "classification", 3, y)
    cosine = RNG.uniform(-0.9, 0.9, (7, 3))
    shifted = cosine.copy()
    shifted[np.arange(7), y] = np.cos(np.arccos(cosine[np.arange(7), y]) + 0.3)
    shifted = np.where(np.arccos(cosine) + 0.3 < np.pi, shifted, cosine - 0.3 * np.sin(0.3))
    got = Margined(made, 30.0, 0.3).loss(torch.tensor(30 * cosine).float(), made.encode(y))
    wanted = F.cross_entropy(torch.tensor(30 * shifted), torch.tensor(y), reduction="none")
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task, columns", [("multiclass", 3), ("binary", 1)])
def test_triplets_are_added_to_the_loss_of_the_scores(task, columns):
    y = RNG.integers(0, 3 if columns > 1 else 2, 9)
    made = Objective(TASKS[task], "classification", 3, y if columns > 1 else y[:, None])
    scores, features = torch.randn(9, columns), torch.randn(9, 5)
    targets = made.encode(y if columns > 1 else y[:, None])
    got = Tripled(made, 5, columns, 0.7, 0.3).loss(torch.cat([scores, features], 1), targets)
    wanted = made.loss(scores, targets).numpy() + 0.7 * by_hand(features.numpy(), y, 0.3)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_without_the_switch_nothing_changes():
    one, other = network(), network(neck=False, bias=True, cosine=0.0, show=False)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert "neck.weight" not in one.state_dict()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(one(x), other(x))
    assert one(x).shape == (3, 3)


def batches_of(y, each, size, epochs=3, seed=1):
    shows = y[:, None] == np.arange(y.max() + 1)
    names = [str(c) for c in range(y.max() + 1)]
    lessons = balanced(Lessons.of(np.arange(len(y))), shows, names, Sampling(per_class=each))
    batches, found = Batches(lessons, size, seed, epochs), []
    for batches.epoch in range(epochs):
        found.append([[row for _, row, _ in batch] for batch in batches])
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.sampled_from([(2, 4), (2, 8), (4, 8), (4, 16)]))
def test_a_batch_has_so_many_of_each_of_its_classes(y, how):
    y, (each, size) = np.array(y), how
    for epoch in batches_of(y, each, size):
        assert len(epoch) == -(-len(y) // size)  # as many steps as without
        for batch in epoch:
            assert 0 < len(batch) <= size
            blocks = y[batch].reshape(-1, each)
            assert (blocks == blocks[:, :1]).all()


def test_an_epoch_goes_through_all_rows_and_the_next_one_anew():
    y = np.repeat(np.arange(8), 12)
    first, second, _ = batches_of(y, 4, 16)
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(96))
        for batch in epoch:  # classes alike in number share a batch with others, not with themselves
            assert len(set(y[batch])) == 4
    assert first != second
    assert batches_of(y, 4, 16)[1] == second  # the same in any process


def test_classes_come_as_often_as_they_are_there():
    y = np.repeat([0, 1, 2], [64, 32, 3])
    drawn = np.bincount([y[row] for epoch in batches_of(y, 4, 16, epochs=30) for batch in epoch for row in batch]) / 30
    np.testing.assert_allclose(drawn, [64, 32, 4], atol=4)


def learnt(run_fit, folder, weight, **how):
    """Three classes of 24 images, learnt with triplets of some weight."""
    y = np.random.default_rng(0).integers(0, 3, 24)  # as `run_fit` draws them
    made = Objective(TASKS["multiclass"], "classification", 3, y[:20])
    goal = Tripled(made, 4, 3, weight, 0.3) if weight else made
    shows = y[:20, None] == np.arange(3)
    lessons = balanced(Lessons.of(np.arange(20)), shows, ["a", "b", "c"], Sampling(per_class=2))
    watch = Watch(made.task, "classification", y, 3, made.center, made.spread, 3)
    net = network(show=weight > 0, **({"neck": True, "bias": False} if weight else {}))
    return run_fit(net, folder, objective=goal, watch=watch, lessons=lessons, **how)


def test_resume_is_the_same(run_fit, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    how = {"epochs": 4, "ema": 0.9, "accumulate": 2, "batch_size": 8}
    whole = learnt(run_fit, "whole", 0.5, **how)
    with pytest.raises(Killed):
        learnt(run_fit, "cut", 0.5, **how, record=killer(2))
    torch.manual_seed(12345)
    assert same(whole, learnt(run_fit, "cut", 0.5, **how))
    assert not same(whole, learnt(run_fit, "other", 5.0, **how))


def test_triplets_draw_the_features_of_a_class_together(run_fit):
    def hard(run):
        x = torch.tensor(run.images / 255, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            features = F.normalize(run.net.eval().features(x), dim=1)
        return float(batch_hard(features, torch.tensor(run.y), 0.3).mean())

    how = {"epochs": 30, "batch_size": 10, "recipe": "none"}
    assert hard(learnt(run_fit, "with", 2.0, **how)) < 0.5 * hard(learnt(run_fit, "without", 0.0, **how))


@pytest.fixture
def toy(house):
    make_competition(house, "multiclass")
    prepare()
    return house


HOW = {
    "triplet": 'loss = "triplet"\nneck = true\n[sampling]\nper_class = 4\n',
    "soft": 'loss = "triplet"\nmargin = "soft"\n',
    "arcface": 'loss = "arcface"\n',
}


@pytest.mark.parametrize("how", HOW)
def test_a_run_learns_so_and_predicts_as_any_other(toy, how):
    write("n", f'base = "a"\n[metric_learning]\n{HOW[how]}')
    stage("train", "toy/a")
    stage("train", "toy/n")
    files = RunFiles("toy/n")
    oof = np.load(files.oof)
    assert oof.shape == (60, 4)
    np.testing.assert_allclose(oof.sum(1), 1, rtol=1e-5)
    assert not np.array_equal(oof, np.load(RunFiles("toy/a").oof))
    kept = load_file(files.fold(0).model)
    assert ("neck.weight" in kept) == (how == "triplet")
    assert ("head.bias" in kept) == (how == "soft")
    if how == "triplet":
        assert (kept["neck.bias"] == 0).all()
        assert (kept["neck.weight"] != 1).any()
    assert np.load(files.fold(0).embeddings).shape == (84, 16)
    assert np.load(files.fold(0).epochs).shape == (60, 4 + 3)


def test_predictions_and_features_are_those_of_the_network_as_it_is(toy):
    """What is on the shelf is what the head sees, and the softmax of its scores without a margin."""
    write("n", 'base = "a"\n[metric_learning]\nloss = "arcface"\nneck = true\n')
    stage("train", "toy/n")
    files, job = RunFiles("toy/n"), job_of("toy/n")
    features = torch.tensor(np.load(files.fold(1).embeddings)[:60].astype(np.float32))
    cosine = F.normalize(features, dim=1) @ F.normalize(load_file(files.fold(1).model)["head.weight"], dim=1).T
    np.testing.assert_allclose((30 * cosine).softmax(1), np.load(files.fold(1).train), atol=0.03)  # float16
    own = job.table.folds[job.table.scored] == 1
    np.testing.assert_allclose(np.load(files.fold(1).oof), np.load(files.oof)[own])


def test_a_start_from_another_head_brings_no_bias(toy):
    stage("train", "toy/a")
    write("n", 'base = "a"\ninit = "a"\n[metric_learning]\nloss = "arcface"\n')
    job = job_of("toy/n")
    course = plan(job, Which((0,)), *labelled_images(job))
    net = fresh_network(job, Which((0,)), course)
    assert (net.head.bias == 0).all()
    assert torch.equal(net.head.weight, load_file(RunFiles("toy/a").fold(0).model)["head.weight"])
    checked = material_of(job, Which((0,))).first  # `make check` looks at the head that is trained
    assert torch.equal(checked.head.weight, net.head.weight)
    assert type(checked.head) is type(net.head)


DIGITS = """task = "multiclass"
metric = "accuracy"
id = "id"
target = "label"
[images]
pattern = "{split}_images/{id}.png"
channels = "grey"
[folds]
n = 2
"""
LONGER = """stage = "train"
epochs = 12
model = { name = "cnn", options = { widths = [8, 16] } }
image.size = 16
augment.recipe = "upright"
optim.lr = 3e-3
retrieval.k = 10
"""
WAYS = {
    "plain": "",
    "triplet": '[metric_learning]\nloss = "triplet"\nneck = true\n[sampling]\nper_class = 4\n',
    "arcface": '[metric_learning]\nloss = "arcface"\n',
}


@pytest.mark.proof
def test_neighbours_of_learnt_features_are_of_their_class(house):
    """Digits, 400 labels, two folds, three seeds: nearest neighbours out of fold with metric learning and without."""
    digits.make(Path("data/d"), labelled=400)
    Path("configs/d").mkdir(parents=True)
    Path("configs/d/competition.toml").write_text(DIGITS)
    prepare("d")
    found = {}
    for way, lines in WAYS.items():
        for seed in range(3):
            Path(f"configs/d/{way}{seed}.toml").write_text(f"seed = {seed}\n{LONGER}{lines}")
            stage("train", f"d/{way}{seed}")
        told = [json.loads(RunFiles(f"d/{way}{seed}").receipt.read_text())["metrics"] for seed in range(3)]
        found[way] = np.array([[one["retrieval"]["map"], one["retrieval"]["top1"], one["score"]] for one in told])
        print(way, found[way].mean(0).round(4))
    for way in ("triplet", "arcface"):
        gain = found[way] - found["plain"]
        print(way, gain.mean(0).round(4), (gain.std(0, ddof=1) / 3**0.5).round(4))
        assert gain[:, 0].mean() > 0.05
