"""Adversarial training against what can be worked out by hand, and the same bytes after a kill."""

import copy

import numpy as np
import pytest
import torch
from house import make_competition, prepare, stage, write
from school import job_of
from test_engine import Killed, killer, same
from torch import nn
from torch.nn import functional as F

from pipeline.store.errors import UserError
from pipeline.store.settings import Adversarial
from pipeline.training.adversarial import Attack, attack_of, still

ATTACKS = {
    "fgsm": Attack("fgsm", 0.05),
    "pgd": Attack("pgd", 0.05, steps=2),
    "awp": Attack("awp", 0.1),
    "late": Attack("awp", 0.1, start=0.5),
}
SCALER = torch.amp.GradScaler("cpu", enabled=False)
Y = torch.tensor([0, 1, 2, 1])


def line():
    """Softmax regression: its gradients can be written down."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()


def pictures(black=()):
    x = 0.1 + 0.8 * torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row, channel in black:
        x[row, channel] = 0
    return x


def value_of(net, seen=None):
    def value(x, y):
        if seen is not None:
            seen.append(x.detach().clone())
        scores = net(x)
        return F.cross_entropy(scores, y), scores.detach()

    return value


def slope(net, x):
    """The gradient of the mean cross-entropy to the pixels, by hand."""
    p = net(x).softmax(1) - F.one_hot(Y, 3)
    return (p / len(x) @ net[1].weight).view_as(x).detach()


def test_fgsm_moves_each_pixel_by_eps_up_the_loss():
    net, x, seen = line(), pictures([(2, 1)]), []
    loss, scores = ATTACKS["fgsm"].descend(net, value_of(net, seen), SCALER, x, Y)
    clean, moved = seen
    assert torch.equal(clean, x)
    there = (x != 0).double()
    torch.testing.assert_close(moved, (x + 0.05 * slope(net, x).sign() * there).clamp(0, 1))
    assert (moved[2, 1] == 0).all()  # a view or channel that is missing
    assert torch.equal(scores, net(x))
    both = (F.cross_entropy(net(x), Y) + F.cross_entropy(net(moved), Y)) / 2
    torch.testing.assert_close(loss, both.detach())
    torch.testing.assert_close(net[1].weight.grad, torch.autograd.grad(both, net[1].weight)[0])


def test_pgd_stays_within_eps_and_is_harder_than_chance():
    net, x, seen = line(), pictures([(0, 0)]), []
    torch.manual_seed(5)
    Attack("pgd", 0.05, steps=4).descend(net, value_of(net, seen), SCALER, x, Y)
    first, moved = seen[1], seen[-1]
    assert len(seen) == 1 + 4 + 1
    assert (moved - x).abs().max() <= 0.05 + 1e-12
    assert (moved[0, 0] == 0).all()
    assert not torch.equal(first, x)
    assert F.cross_entropy(net(moved), Y) > F.cross_entropy(net(first), Y)
    # Of a loss that is convex in the pixels, the corner that every slope points to is where four steps end.
    torch.testing.assert_close(moved[1:], (x + 0.05 * slope(net, moved).sign()).clamp(0, 1)[1:])


def test_pixels_stay_in_their_range():
    net, seen = line(), []
    x = torch.ones(4, 3, 2, 2, dtype=torch.float64)
    Attack("fgsm", 0.3).descend(net, value_of(net, seen), SCALER, x, Y)
    assert seen[1].max() == 1
    assert seen[1].min() == pytest.approx(0.7)


def test_awp_takes_the_gradient_of_weights_moved_along_theirs():
    net, x = line(), pictures()
    other, value = copy.deepcopy(net), value_of(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    ATTACKS["awp"].descend(net, value, SCALER, x, Y)
    ATTACKS["awp"].perturb(net, value, SCALER, [(x, Y)])
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())  # put back
    (g,) = torch.autograd.grad(F.cross_entropy(other(x), Y), other[1].weight)
    with torch.no_grad():  # the bias stays where it is
        other[1].weight += 0.1 * other[1].weight.norm() * g / g.norm()
    F.cross_entropy(other(x), Y).backward()
    torch.testing.assert_close(net[1].weight.grad, other[1].weight.grad)
    torch.testing.assert_close(net[1].bias.grad, other[1].bias.grad)


def test_awp_leaves_what_is_frozen():
    net, x = line(), pictures()
    net[1].weight.requires_grad_(False)
    ATTACKS["awp"].descend(net, value_of(net), SCALER, x, Y)
    ATTACKS["awp"].perturb(net, value_of(net), SCALER, [(x, Y)])
    assert net[1].weight.grad is None
    assert net[1].bias.grad is not None


def test_statistics_are_of_clean_images():
    norm = nn.BatchNorm1d(12)
    net = nn.Sequential(nn.Flatten(), norm, nn.Linear(12, 3)).double()
    x = pictures()
    for attack in ATTACKS.values():
        norm.reset_running_stats()
        attack.descend(net, value_of(net), SCALER, x, Y)
        attack.perturb(net, value_of(net), SCALER, [(x, Y)])
        torch.testing.assert_close(norm.running_mean, 0.1 * x.flatten(1).mean(0))
        assert norm.momentum == 0.1
    with still(net):
        assert norm.momentum == 0


@pytest.mark.parametrize("way", ATTACKS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_resume_is_the_same(run_fit, toy, way, pieces, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    how = {"attack": ATTACKS[way], "epochs": 4, "accumulate": pieces, "ema": 0.9}

    def net():
        torch.manual_seed(11)
        return toy(norm=True, dropout=0.3)

    whole = run_fit(net(), "whole", **how)
    with pytest.raises(Killed):
        run_fit(net(), "cut", **how, record=killer(2))
    torch.manual_seed(12345)
    again = run_fit(net(), "cut", **how)
    assert same(whole, again)
    assert not same(whole, run_fit(net(), "plain", **how | {"attack": None}))


def test_an_attack_begins_at_its_epoch(run_fit, toy):
    losses = {
        start: [entry["train_loss"] for entry in
                run_fit(toy(), f"s{start}", epochs=4, attack=Attack("fgsm", 0.2, start=start)).entries]
        for start in (0.0, 0.5, 0.99)
    }  # fmt: skip
    assert losses[0.5][:2] == losses[0.99][:2]
    assert losses[0.5][2:] != losses[0.99][2:]
    assert losses[0.0][0] > losses[0.5][0]


def test_training_on_moved_images_resists_them(run_fit, toy):
    """The seconds-long check: the loss on images moved against a network is lower where it has learnt such."""

    def under_attack(run):
        x = torch.tensor(run.images / 255, dtype=torch.float32).permute(0, 3, 1, 2)
        net, y = run.net.eval(), torch.tensor(run.y)
        clean = x.requires_grad_()
        F.cross_entropy(net(clean), y).backward()
        return F.cross_entropy(net((x + 0.1 * clean.grad.sign()).clamp(0, 1).detach()), y).item()

    plain, robust = (
        run_fit(toy(), name, recipe="none", epochs=30, lr=0.03, attack=attack)
        for name, attack in (("plain", None), ("robust", Attack("fgsm", 0.1)))
    )
    assert under_attack(robust) < under_attack(plain)


def test_a_config_says_which():
    assert attack_of(Adversarial()) is None
    assert attack_of(Adversarial(method="pgd", eps=0.02, steps=5, start=0.3)) == Attack("pgd", 0.02, 5, 0.3)


@pytest.mark.parametrize(
    "lines, said",
    [
        ('[adversarial]\nmethod = "fgsm"\n[image]\nnormalize = "group"\n', "moves pixels of 0..1"),
        ('fit = "linear"\n[adversarial]\nmethod = "awp"\n', r"takes no adversarial\.method"),
        ('[adversarial]\nmethod = "fgms"\n', "adversarial.method"),
    ],
)
def test_what_makes_no_sense_is_one_line(house, lines, said):
    make_competition(house, "multiclass")
    prepare()
    write("n", f'base = "a"\n{lines}')
    with pytest.raises(UserError, match=said) as caught:
        job_of("toy/n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task, method", [("binary", "fgsm"), ("regression", "awp"), ("ordinal", "pgd")])
def test_a_run_is_trained_so(house, task, method):
    """Over several epochs: what is predicted between them must not be in the way."""
    make_competition(house, task)
    prepare()
    write("n", f'base = "a"\n[adversarial]\nmethod = "{method}"\nstart = 0.3\n')
    stage("train", "toy/n")
    stage("train", "toy/a")
    assert not np.array_equal(np.load("runs/toy/n/oof.npy"), np.load("runs/toy/a/oof.npy"))
