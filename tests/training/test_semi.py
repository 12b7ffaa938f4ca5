"""Learning from images without labels: losses and gradients by hand, teachers, the same bytes after a kill."""

import copy

import cv2
import numpy as np
import pytest
import torch
from house import make_competition, prepare, stage, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from school import job_of
from test_adapt import audited, sign
from test_engine import Killed, killer, same
from torch import nn
from torch.nn import functional as F

from pipeline.images.augment import augmenter
from pipeline.images.cache import Rows
from pipeline.nets.machine import Machine
from pipeline.nets.objective import Objective
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_json, write_json
from pipeline.store.shift import Semi
from pipeline.tasks import TASKS
from pipeline.training.layers import norms_of
from pipeline.training.semi import METHODS, Adaptation, ramp
from pipeline.training.unlabelled import Drawn, Pairs
from pipeline.training.weights import header_of, start_of
from pipeline.training.which import Which

CPU = Machine("cpu", "fp32", 1)
NET = ["mean_teacher", "fixmatch", "mmt"]


class Net(nn.Module):
    """Softmax regression behind a batch norm, or without it."""

    def __init__(self, outputs=3, norm=False, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(*[nn.BatchNorm2d(1)] * norm, nn.Flatten())
        self.head = nn.Linear(64, outputs)

    def forward(self, x):
        return self.head(self.trunk(x))


def school(method, task="multiclass", head="classification", norm=False, nets=None, n=8, steps=4, **how):
    rng = np.random.default_rng(1)
    y = {"multiclass": np.arange(9) % 3, "binary": np.arange(9) % 2, "regression": 5 + 3 * rng.random(9)}
    y |= {"ordinal": np.arange(9) % 3, "multilabel": rng.integers(0, 2, (9, 3))}
    objective = Objective(TASKS[task], head, 3, y[task])
    outputs = {"multiclass": 3, "multilabel": 3, "ordinal": 3 if head == "classification" else 1}.get(task, 1)
    if nets is None:
        nets = [Net(outputs, norm, seed) for seed in range(1 + (method == "mmt"))]
    pixels = rng.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8)
    pairs = Pairs(Rows([pixels], np.zeros((n, 0))), augmenter("none"), 5)
    given = Semi(method=method, **how)
    return Adaptation(given, TASKS[task], head, objective, nets, pairs, Drawn(np.arange(n), 4, steps, 2), CPU)


def views(seed=0, n=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.rand(n, 1, 8, 8, generator=generator)


def test_a_mean_teacher_is_followed_by_squares():
    a, (weak, strong) = school("mean_teacher"), views()
    with torch.no_grad():
        a.teachers[0].head.weight += 0.3
    (net,), (teacher,) = a.pupils, a.teachers
    found = METHODS["mean_teacher"](a, weak, strong, [])
    wanted = (net(strong).softmax(1) - teacher(weak).softmax(1).detach()).square().sum(1)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert net.head.weight.grad.abs().sum() > 0
    assert teacher.head.weight.grad is None


@pytest.mark.parametrize("task, head", [("regression", "regression"), ("ordinal", "regression")])
def test_values_are_followed_in_units_of_their_spread(task, head):
    a, (weak, strong) = school("mean_teacher", task, head), views()
    with torch.no_grad():
        a.teachers[0].head.bias += 0.5
    found = METHODS["mean_teacher"](a, weak, strong, [])
    wanted = (a.pupils[0](strong) - a.teachers[0](weak)).square().sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.3, 0.99), st.integers(0, 50))
def test_fixmatch_learns_its_own_sure_decisions(threshold, seed):
    a, (weak, strong) = school("fixmatch", threshold=threshold), views(seed)
    (net,) = a.pupils
    with torch.no_grad():
        net.head.weight *= 8
    p = net(weak).softmax(1).detach()
    sure, label = p.max(1)
    wanted = F.cross_entropy(net(strong), label, reduction="none") * (sure >= threshold)
    torch.testing.assert_close(METHODS["fixmatch"](a, weak, strong, []), wanted)


def test_labels_are_sure_one_by_one():
    a, (weak, strong) = school("fixmatch", "multilabel", threshold=0.8), views(3, 40)
    (net,) = a.pupils
    with torch.no_grad():
        net.head.weight *= 8
    p = net(weak).sigmoid().detach()
    kept = torch.maximum(p, 1 - p) >= 0.8
    assert 0 < kept.float().mean() < 1
    each = F.binary_cross_entropy_with_logits(net(strong), (p > 0.5).float(), reduction="none") * kept
    torch.testing.assert_close(METHODS["fixmatch"](a, weak, strong, []), each.mean(1))


def test_students_are_taught_by_the_other_s_teacher():
    a, (weak, strong) = school("mmt"), views()
    one, two = a.pupils
    assert not torch.equal(one.head.weight, two.head.weight)
    said = [teacher(weak).softmax(1).detach() for teacher in a.teachers]
    wanted = torch.zeros(5)
    for net, p in ((one, said[1]), (two, said[0])):
        soft = -(p * net(strong).log_softmax(1)).sum(1)
        wanted += (soft + F.cross_entropy(net(strong), p.argmax(1), reduction="none")) / 2
    torch.testing.assert_close(METHODS["mmt"](a, weak, strong, []), wanted)


def test_target_forward_shows_images_to_batch_norms_alone():
    a, (weak, strong) = school("target_forward", norm=True), views()
    (net,) = a.pupils
    before = copy.deepcopy(dict(net.named_parameters()))
    assert METHODS["target_forward"](a, weak, strong, []) is None
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in net.named_parameters())
    torch.testing.assert_close(norms_of(net)[0].running_mean, 0.1 * weak.mean((0, 2, 3)))
    assert a.predictor(net) is net


@pytest.mark.parametrize("method", NET)
def test_a_teacher_sees_the_target_alone(method):
    """And what the pupil's batch norms remember is not of what a decision was made on."""
    a, (weak, strong) = school(method, norm=True), views()
    METHODS[method](a, weak, strong, [])
    torch.testing.assert_close(norms_of(a.teachers[0])[0].running_mean, 0.1 * weak.mean((0, 2, 3)))
    torch.testing.assert_close(norms_of(a.pupils[0])[0].running_mean, 0.1 * strong.mean((0, 2, 3)))
    assert a.predictor(a.pupils[0]) is a.teachers[0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0.1, 0.99))
def test_a_teacher_is_the_mean_then_forgets(path, ema):
    a = school("mean_teacher", ema=ema)
    (net,), (teacher,) = a.pupils, a.teachers
    first = float(teacher.head.bias[0])
    wanted = first
    for step, value in enumerate(path):
        with torch.no_grad():
            net.head.bias[0] = value
        a.follow(step)
        keep = min(1 - 1 / (step + 2), ema)
        wanted = keep * wanted + (1 - keep) * value
    assert float(teacher.head.bias[0]) == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    if ema > 1 - 1 / (len(path) + 1):  # still the plain mean of the start and all steps
        assert wanted == pytest.approx(np.mean([first, *path]), rel=1e-3, abs=1e-3)


def test_teachers_are_heard_little_by_little():
    said = [ramp(progress) for progress in np.linspace(0, 1, 41)]
    assert said[0] == pytest.approx(np.exp(-5))
    assert said == sorted(said)
    assert ramp(0.3) == ramp(1) == 1


@pytest.mark.parametrize("method", NET)
def test_the_gradient_of_a_batch_is_added_with_its_weight(method):
    """In pieces as at once; a second pupil learns the labelled batch too."""
    grads = {}
    for pieces in (1, 2):
        a = school(method, weight=0.5, threshold=0.34)
        x, y = views(7, 4)[0], torch.tensor([0, 1, 2, 0])

        def value(part, target, pupil):
            return F.cross_entropy(pupil(part), target, reduction="sum") / 4, None

        a.begin(0)
        batch = next(iter(a.views))
        parts = list(zip(x.chunk(pieces), y.chunk(pieces), strict=True))
        a.descend(value, torch.amp.GradScaler("cpu", enabled=False), parts, batch, 1.0)
        grads[pieces] = [pupil.head.weight.grad for pupil in a.pupils]
        b = school(method, weight=0.5, threshold=0.34)
        pair = batch[0].permute(0, 3, 1, 2).float() / 255
        total = 0.5 * METHODS[method](b, pair[:, :1], pair[:, 1:], []).mean()
        total = total + sum(F.cross_entropy(pupil(x), y) for pupil in b.pupils[1:])
        wanted = torch.autograd.grad(total, [pupil.head.weight for pupil in b.pupils])
        for found, other in zip(grads[pieces], wanted, strict=True):
            torch.testing.assert_close(found, other)
            assert other.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_the_same(run_fit, toy, method, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")

    def run(folder, **more):
        nets = []
        for seed in range(1 + (method == "mmt")):
            torch.manual_seed(11 + seed)
            net = toy(norm=True, dropout=0.3)
            net.__dict__["head"] = net[-1]  # a module of that name would be one more layer
            nets.append(net)
        a = school(method, nets=nets, threshold=0.34)
        a.batches.steps = 4
        return run_fit(nets[0], folder, epochs=4, adaptation=a, evaluate=peek(a), **more)

    def peek(a):
        def evaluate(net):
            assert net is a.predictor(a.pupils[0])
            with torch.inference_mode():
                net.eval()(torch.zeros(1, 1, 8, 8))
            return {"valid_loss": 0.5}

        return evaluate

    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", record=killer(2))
    torch.manual_seed(12345)
    assert same(whole, run("cut"))
    torch.manual_seed(11)
    assert not same(whole, run_fit(toy(norm=True, dropout=0.3), "plain", epochs=4))


@pytest.mark.parametrize(
    "task, lines",
    [
        ("multiclass", 'method = "mmt"\nweight = 0.3\n[retrieval]\nk = 3'),
        ("regression", 'method = "mean_teacher"'),
        ("ordinal", 'method = "fixmatch"\nthreshold = 0.3'),
    ],
)
def test_a_run_is_trained_so(house, task, lines):
    """One model a fold for its own images, one for the test's; the audit proves both blind, and tells of it."""
    make_competition(house, task)
    prepare()
    write("n", f'base = "a"\nepochs = 1\n[semi]\n{lines}\n')
    stage("train", "toy/n")
    for k in range(3):
        own = RunFiles("toy/n").fold(k)
        assert own.model.read_bytes() != own.for_test.model.read_bytes()
        assert np.array_equal(np.load(own.rows), np.load(own.for_test.rows))
        assert np.array_equal(np.load(own.test), np.load(own.for_test.test))
        assert not own.for_test.oof.exists()
    report = audited("toy/n")
    assert not report.findings
    assert report.counts["models"] == 6
    assert "without their labels" in report.tree[0]
    write("f", 'stage = "full"\nrun = "n"\nseeds = 1\n')
    stage("full", "toy/f")  # on all rows, adapted to test
    assert np.isfinite(np.load(RunFiles("toy/f").test)).all()
    told = read_json(own.for_test.receipt)
    told["unlabelled"] = {"test": "0"}
    write_json(own.for_test.receipt, told)
    sign("toy/n")
    (finding,) = audited("toy/n").findings
    assert "for what it predicts of the test, to other images" in str(finding)


@pytest.mark.parametrize("brighter", [0, 60])
def test_a_run_that_waits_for_a_shift_is_the_plain_one_without(house, brighter):
    data = make_competition(house, "multiclass")
    for path in (data / "test").iterdir():
        cv2.imwrite(str(path), cv2.add(cv2.imread(str(path), 0), brighter))
    prepare()
    write("plain", 'base = "a"\nepochs = 1\n')
    write("n", 'base = "plain"\n[semi]\nmethod = "mean_teacher"\nwhen = "shifted"\n')
    for name in ("plain", "n"):
        stage("train", f"toy/{name}")
    plain, asked = RunFiles("toy/plain"), RunFiles("toy/n")
    for one, other in ((plain.oof, asked.oof), (plain.test, asked.test)):
        assert (one.read_bytes() == other.read_bytes()) == (not brighter)
    assert asked.fold(0).for_test.receipt.exists() == bool(brighter)
    assert read_json(asked.receipt)["unshifted"] == (not brighter)
    assert not audited("toy/n").findings
    write("f", 'stage = "full"\nrun = "n"\nseeds = 1\n')
    stage("full", "toy/f")
    write("g", 'base = "plain"\ninit = "n"\n')
    if brighter:
        with pytest.raises(UserError, match="adapt this run, too"):
            stage("train", "toy/g")
    else:
        stage("train", "toy/g")
    (model,) = (house / "runs/toy/f").rglob(asked.fold(0).model.name)
    assert ("unlabelled" in header_of(model)) == bool(brighter)


def test_what_is_adapted_to_images_of_a_fold_tells_no_other_run_of_them(house):
    """The other's models predict test too: only what is adapted to either by itself may go on from it."""
    make_competition(house, "multiclass")
    prepare()
    write("p", 'base = "a"\nepochs = 1\n')
    write("q", 'base = "p"\nsemi.method = "mean_teacher"\n')
    for name in ("p", "q"):
        stage("train", f"toy/{name}")
    for lines in ('init = "q"', 'teacher = "q"', 'teacher = "q"\nsemi.method = "mmt"'):
        write("n", f'base = "p"\n{lines}\n')
        with pytest.raises(UserError, match="= 'toy/q' is adapted to the images of each fold") as caught:
            stage("train", "toy/n")
        assert "\n" not in str(caught.value)
    write("n", 'base = "p"\ninit = "q"\nsemi.method = "fixmatch"\n')
    job, q = job_of("toy/n"), RunFiles("toy/q")
    assert start_of(job, Which((1,))) == q.fold(1).model
    assert start_of(job, Which((1,), target="test")) == q.fold(1).for_test.model


def test_both_models_of_a_fold_start_from_one_that_is_not_adapted(house):
    make_competition(house, "multiclass")
    prepare()
    write("n", 'base = "a"\ninit = "a"\nepochs = 1\nsemi.method = "fixmatch"\noptim.lr = 1e-9\n')
    for name in ("a", "n"):
        stage("train", f"toy/{name}")
    assert not audited("toy/n").findings
    theirs = load_file(RunFiles("toy/a").fold(1).model)["head.weight"]
    for files in (RunFiles("toy/n").fold(1), RunFiles("toy/n").fold(1).for_test):
        torch.testing.assert_close(load_file(files.model)["head.weight"], theirs, atol=1e-6, rtol=0)
