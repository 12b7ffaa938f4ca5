import json
from itertools import count
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from files import grouped
from torch import nn

from pipeline.nets.machine import Machine, to_device
from pipeline.nets.models import build
from pipeline.store.errors import UserError
from pipeline.training import engine
from pipeline.training.sampling import Batches, Lessons

CPU = Machine("cpu", "fp32", 1)
WAYS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "schedule": "onecycle", "clip": 0.5},
    "ema": {"ema": 0.9},
    "swa": {"swa": 0.3},
    "mixup": {"mixup": 1.0, "cutmix": 1.0, "accumulate": 2},
    "soup": {"soup": 2, "schedule": "step"},
}
# Ways that need a backbone and a head: see `net_of`.
LAYERED = {
    "gradual": {"freeze": "gradual", "layer_decay": 0.5},
    "gradual ema": {"freeze": "gradual", "ema": 0.9, "optimizer": "sgd", "schedule": "polynomial"},
    "head swa": {"freeze": "head", "swa": 0.3},
    "gradual soup": {"freeze": "gradual", "soup": 3},
}


def net_of(way, toy):
    """The toy, or for ways that know of layers a small network; both with batch norm and dropout."""
    if way not in LAYERED:
        return toy(norm=True, dropout=0.3)
    torch.manual_seed(1)
    return build("cnn", weights="none", options={"widths": [4, 6]}, channels=1, size=(8, 8), outputs=3, pool="gem",
                 dropout=0.3, normalize="half")  # fmt: skip


def weights(run):
    return {key: value.clone() for key, value in run.net.state_dict().items()}


def same(a, b, **near):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    return all(torch.allclose(a[k], b[k], **near) if near else torch.equal(a[k], b[k]) for k in a)


def steps(log):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log]


class Killed(Exception):
    pass


def killer(after):
    def record(entry):
        if entry["epoch"] == after:
            raise Killed

    return record


def test_learns(run_fit, toy):
    run = run_fit(toy(), epochs=30, lr=0.03, recipe="none")
    losses = [entry["train_loss"] for entry in run.entries]
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        guess = run.net(to_device(torch.from_numpy(run.images), CPU)).argmax(1).numpy()
    assert (guess == run.y)[20:].mean() >= 0.75  # rows that were held out


@pytest.mark.parametrize("way", WAYS)
def test_twice_is_the_same(run_fit, toy, way):
    one, two = (run_fit(toy(norm=True, dropout=0.3), folder, **WAYS[way]) for folder in "ab")
    assert same(one, two)
    assert steps(one.log) == steps(two.log)
    other = run_fit(toy(norm=True, dropout=0.3), "c", **WAYS[way], seed=4)
    assert not same(one, other)


@pytest.mark.parametrize(
    "way, after, workers",
    [(way, after, "0") for way in WAYS | LAYERED for after in (0, 2)]
    + [("mixup", 0, "2"), ("adamw", 2, "2"), ("soup", 3, "0"), ("gradual ema", 4, "0")],
)
def test_resume_is_the_same(run_fit, toy, way, after, workers, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("PODIUM_WORKERS", workers)
    how = (WAYS | LAYERED)[way] | {"epochs": 5}
    torch.manual_seed(11)
    whole = run_fit(net_of(way, toy), "whole", **how)
    torch.manual_seed(11)
    with pytest.raises(Killed):
        run_fit(net_of(way, toy), "cut", **how, record=killer(after))
    torch.manual_seed(12345)  # a new process has another stream, and half a line in its log
    with open(whole.home.parent / "cut" / "log.jsonl", "a") as handle:
        handle.write('{"step": 99, "ep')
    seen = []
    again = run_fit(net_of(way, toy), "cut", **how, record=lambda entry: seen.append(entry["epoch"]))
    assert seen == list(range(after, 5))  # the killed epoch had not been kept
    assert same(whole, again)
    assert steps(whole.log) == steps(again.log)


def test_workers_do_not_matter(run_fit, toy, monkeypatch):
    runs = []
    for workers in ("0", "2"):
        monkeypatch.setenv("PODIUM_WORKERS", workers)
        torch.manual_seed(5)
        runs.append(run_fit(toy(dropout=0.5), workers))
    assert same(*runs)


@pytest.mark.parametrize("tick, kept", [(0.001, False), (400, True)])
def test_checkpoints_wait(run_fit, toy, monkeypatch, tick, kept):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "1000")
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=count(0, tick).__next__))
    assert (run_fit(toy()).home / "last.pt").exists() == kept


def test_every_step_mixes_anew(run_fit, toy, monkeypatch):
    draws = []
    monkeypatch.setattr(engine, "mix_batch", lambda x, y, *how: draws.append(how[2].random()) or (x, y))
    for seed in (3, 4):
        run_fit(toy(), seed=seed)
    assert len(set(draws)) == len(draws) == 2 * 3 * 4


@pytest.mark.parametrize("how", [{"optimizer": "sgd"}, {"optimizer": "adamw"}, {"optimizer": "sgd", "mixup": 1.0}])
def test_accumulation_changes_nothing(run_fit, toy, how):
    one, four = (
        run_fit(toy(), str(pieces), accumulate=pieces, batch_size=8, clip=0.1, lr=0.1, **how) for pieces in (1, 4)
    )
    assert same(one, four, atol=1e-5)
    for a, b in zip(one.log, four.log, strict=True):
        assert a.get("loss") == pytest.approx(b.get("loss"), abs=1e-5)


def test_a_step_is_that_of_plain_torch(run_fit, toy):
    ours = run_fit(toy(), optimizer="sgd", momentum=0.0, weight_decay=0.0, recipe="none", batch_size=20, epochs=2,
                   schedule="constant", warmup=1.0, lr=0.2)  # fmt: skip
    net = toy()
    x = torch.from_numpy(ours.images[:20]).permute(0, 3, 1, 2).float() / 255
    for rate in (0.1, 0.2):
        loss = nn.functional.cross_entropy(net(x), torch.from_numpy(ours.y[:20]))
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, grad in zip(net.parameters(), grads, strict=True):
                p -= rate * grad
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_clip(run_fit, toy, clip):
    net = toy()
    before = [p.detach().clone() for p in net.parameters()]
    run_fit(net, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0, lr=1.0, epochs=1,
            batch_size=20, clip=clip)  # fmt: skip
    moved = torch.cat([(a - b).flatten() for a, b in zip(net.parameters(), before, strict=True)]).norm()
    assert (moved.item() == pytest.approx(clip, rel=1e-3)) if clip else (moved > 0.01)


def test_log(run_fit, toy):
    seen = []
    run = run_fit(
        toy(), batch_size=8, evaluate=lambda net: {"valid_loss": 0.25}, keep=lambda e, net: seen.append(e["epoch"])
    )
    assert [line["step"] for line in run.log if "loss" in line] == list(range(9))
    whole = [line for line in run.log if "loss" not in line]
    assert whole == run.entries
    assert [line["epoch"] for line in whole] == seen == [0, 1, 2]
    assert [line["step"] for line in whole] == [3, 6, 9]
    assert whole[2]["lr"] == pytest.approx(0, abs=1e-12)
    assert all(line["valid_loss"] == 0.25 for line in whole)
    for line in whole:
        parts = [step["loss"] for step in run.log if "loss" in step and step["epoch"] == line["epoch"]]
        assert line["train_loss"] == pytest.approx(np.mean(parts))


def test_evaluation_is_evaluation(run_fit, toy):
    from pipeline.training.predict import scores

    seen = []

    def evaluate(net):
        raw = [scores(net, images, np.arange(4), machine=CPU, batch_size=3) for _ in range(2)]
        seen.append((net.training, raw[0].requires_grad, torch.equal(*raw), raw[0].grad_fn))
        return {}

    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1)).astype(np.uint8)
    net, modes = toy(norm=True, dropout=0.5), []
    net[0].register_forward_hook(lambda module, args, out: modes.append(module.training))
    run_fit(net, evaluate=evaluate, batch_size=20)
    assert seen == [(False, False, True, None)] * 3
    assert modes == [True, False, False, False, False] * 3  # back to training after each evaluation


@pytest.mark.parametrize("way, averages", [("adamw", False), ("ema", True), ("swa", False), ("soup", False)])
def test_which_network_is_scored_and_returned(run_fit, toy, way, averages):
    net, scored, kept = toy(), [], []
    run = run_fit(net, **WAYS[way], evaluate=lambda current: scored.append(current) or {},
                  keep=lambda epoch, current: kept.append(current))  # fmt: skip
    assert kept == scored
    assert all((current is net) != averages for current in scored)
    assert (run.net is net) == (way == "adamw")


def test_ema_lags(run_fit, toy):
    plain, lagging = run_fit(toy(), "a"), run_fit(toy(), "b", ema=0.9)
    assert not same(plain, lagging, atol=1e-6)
    net = toy()
    instant = run_fit(net, "c", ema=1e-9)
    assert same(plain, instant, atol=1e-6)
    assert steps(plain.log) == steps(lagging.log)  # the average never touches the training itself


@pytest.mark.parametrize("swa, epochs", [(0.5, 4), (0.9, 2), (0.99, 1), (0.01, 1)])
def test_swa_averages_the_end(run_fit, toy, swa, epochs):
    net, seen = toy(), []
    # The network at each step, seen from the forward pass of the next one and at the very end.
    net[0].register_forward_pre_hook(lambda module, args: seen.append(module.weight.detach().clone()))
    run = run_fit(net, swa=swa, epochs=epochs, batch_size=5)
    seen = [*seen[1:], net[0].weight.detach().clone()]
    total = 4 * epochs
    assert len(seen) == total
    tail = [weight for step, weight in enumerate(seen, 1) if step / total > swa]
    torch.testing.assert_close(run.net[0].weight, torch.stack(tail).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("soup", [1, 2, 4])
def test_a_soup_is_of_the_last_epochs(run_fit, toy, soup):
    seen = []
    run = run_fit(toy(norm=True), soup=soup, epochs=4, recipe="none",
                  keep=lambda entry, net: seen.append(net[0].weight.detach().clone()))  # fmt: skip
    torch.testing.assert_close(run.net[0].weight, torch.stack(seen[-soup:]).mean(0), atol=1e-6, rtol=1e-5)
    # Its statistics are its own, not those of a network along the way.
    x = run.net[0](to_device(torch.from_numpy(run.images[:20]), CPU))
    torch.testing.assert_close(run.net[1].running_mean, x.mean((0, 2, 3)), atol=1e-5, rtol=1e-3)


def test_the_schedule_takes_its_options(run_fit, toy):
    rates = {}
    for name, options in {"a": {}, "b": {"gamma": 0.5}, "c": {"milestones": [0.5]}}.items():
        run = run_fit(toy(), name, schedule="step", warmup=0.0, epochs=10, **options)
        rates[name] = [round(line["lr"] / 0.01, 6) for line in run.log if "lr" in line]
    assert rates["a"] == [1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001]
    assert rates["b"] == [1] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125]
    assert rates["c"] == [1] * 5 + [0.1] * 5
    run = run_fit(toy(), "d", schedule="polynomial", power=2.0, warmup=0.0, epochs=4)
    assert [line["lr"] / 0.01 for line in run.log if "lr" in line] == pytest.approx([0.5625, 0.25, 0.0625, 0])


def test_groups_reach_the_network_normalised(run_fit, toy):
    """The images of a group may be as bright as they like: the losses are the same."""
    losses = []
    for shift in (0, 40):
        run = run_fit(toy(), str(shift), epochs=1)
        images = run.images // 2
        images[::2] += np.uint8(shift)
        together = grouped(images, np.array(["a", "b"] * 12), 1, ())
        net = toy(norm=True)
        swa = run_fit(net, f"g{shift}", images=together, swa=0.3, recipe="none", optimizer="sgd")
        losses.append([line["loss"] for line in swa.log if "loss" in line])
        losses.append(swa.net[1].running_mean.tolist())
    assert losses[0] == pytest.approx(losses[2], abs=1e-4)
    assert losses[1] == pytest.approx(losses[3], abs=1e-4)


def test_swa_updates_batch_norm(run_fit, toy, monkeypatch):
    done = run_fit(toy(norm=True), "a", swa=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "update_bn", lambda *args, **options: None)
        skipped = run_fit(toy(norm=True), "b", swa=0.3)
    ours, stale = done.net[1], skipped.net[1]
    assert torch.equal(ours.weight, stale.weight)
    assert not torch.allclose(ours.running_mean, stale.running_mean, rtol=1e-3)
    plain = run_fit(toy(norm=True), "c", swa=0.3, recipe="none")
    x = plain.net[0](to_device(torch.from_numpy(plain.images[:20]), CPU))
    torch.testing.assert_close(plain.net[1].running_mean, x.mean((0, 2, 3)), atol=1e-5, rtol=1e-3)


class Poison(nn.Module):
    def __init__(self, inner, at, what):
        super().__init__()
        self.inner, self.at, self.what, self.count = inner, at, what, 0

    def forward(self, x):
        self.count += 1
        if self.count == self.at:
            self.seen = x
            if isinstance(self.what, Exception):
                raise self.what
            return self.inner(x) * self.what
        return self.inner(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_loss_names_epoch_and_ids(run_fit, toy, value):
    batches = Batches(Lessons.of(np.arange(20)), 5, 3, 9)
    batches.epoch = 1
    rows = [row for _, row in list(batches)[2]]
    with pytest.raises(UserError) as caught:
        run_fit(Poison(toy(), 7, value), batch_size=5)
    message = str(caught.value)
    assert "toy fold 0" in message
    assert "epoch 1" in message
    assert ", ".join(f"id{row}" for row in rows[:4]) in message
    assert "optim.lr" in message


def test_infinite_loss_is_found_at_the_end_too():
    names, seen = np.array(["a", "b", "c", "d"]), [torch.tensor([0, 1]), torch.tensor([3, 2])]
    with pytest.raises(UserError, match="ids d, c"):
        engine._check_finite([torch.tensor(1.0), torch.tensor(float("nan"))], seen, "t", 0, names)
    engine._check_finite([torch.tensor(1.0), torch.tensor(2.0)], seen, "t", 0, names)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
])  # fmt: skip
def test_out_of_memory_is_advice(run_fit, toy, error):
    with pytest.raises(UserError, match=r"batch_size = 6, optim\.accumulate = 2, images 8 x 8.*accumulate = 4"):
        run_fit(Poison(toy(), 2, error), accumulate=2)


def test_other_errors_pass(run_fit, toy):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_fit(Poison(toy(), 2, RuntimeError("mat1 and mat2 cannot be multiplied")))


def test_l1_empties_a_network(run_fit, toy):
    plain, sparse = run_fit(toy()), run_fit(toy(), "sparse", l1=3.0)
    zeros = [(torch.cat([p.flatten() for p in net.parameters() if p.ndim > 1]) == 0).float().mean().item()
             for net in (plain.net, sparse.net)]  # fmt: skip
    assert zeros[0] == 0
    assert zeros[1] > 0.1


def test_unknown_optimizer(run_fit, toy):
    with pytest.raises(UserError, match="did you mean 'adam'"):
        run_fit(toy(), optimizer="adamv")


def test_half_precision_on_a_cpu(run_fit, toy):
    net, seen = toy(), []
    net[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    rough = run_fit(net, "bf16", machine=Machine("cpu", "bf16", 1))
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert same(rough, run_fit(toy(), "fp32"), atol=0.05)
    assert not same(rough, run_fit(toy(), "again"), atol=0)


@pytest.mark.parametrize("optimizer, machine, near", [
    ("adamw", Machine("cpu", "fp32", 1, quick=True), 1e-4), ("sgd", Machine("cpu", "fp32", 1, quick=True), 1e-4),
    ("sgd", Machine("cpu", "fp32", 1, layout="channels_first"), 1e-4),
    ("sgd", Machine("cpu", "bf16", 1, layout="channels_first", quick=True), 0.05),
])  # fmt: skip
def test_what_a_probe_may_choose_rounds_elsewhere_only(run_fit, toy, optimizer, machine, near):
    plain = run_fit(toy(norm=True), "plain", optimizer=optimizer)
    chosen = run_fit(toy(norm=True), "chosen", optimizer=optimizer, machine=machine)
    for name, found in weights(chosen).items():
        # A bias before a batch norm has no gradient but rounding, which AdamW takes for one.
        if name not in ("0.bias", "1.running_mean"):
            torch.testing.assert_close(found, weights(plain)[name], atol=near, rtol=0)


def test_compiled_steps_are_those_of_the_compiler(run_fit, toy, monkeypatch):
    """Only steps: predictions and weights are those of the network itself, under its own names."""
    steps = []

    def compiler(network):
        return lambda *given: steps.append(network.training) or network(*given)

    monkeypatch.setattr(torch, "compile", compiler)
    seen = []
    compiled = run_fit(toy(), "a", compiled=True, evaluate=lambda net: seen.append(type(net)) or {})
    assert steps == [True] * 12
    assert set(seen) == {nn.Sequential}
    plain = run_fit(toy(), "b")
    assert len(steps) == 12
    assert same(plain, compiled, atol=0)


@pytest.mark.parametrize("way", [{}, {"cutmix": 1.0}, {"mixup": 1.0}, {"soup": 2}])
def test_bytes_train_as_floats_do(run_fit, way):
    from pipeline.nets.models import build

    runs = []
    for reads in (True, False):
        torch.manual_seed(0)
        net = build("cnn", weights="none", options={"widths": [4, 8]}, channels=1, size=(8, 8), outputs=3, pool="avg",
                    dropout=0.0, normalize="half")  # fmt: skip
        assert net.reads_bytes
        net.reads_bytes = reads
        runs.append(run_fit(net, str(reads), **way))
    assert same(*runs, atol=0)


def test_prepare():
    threads = cv2.getNumThreads()
    Machine("cpu", "fp32", 1).prepare()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    cv2.setNumThreads(threads)


def test_toy_log_is_json_lines(run_fit, toy):
    text = (run_fit(toy()).home / "log.jsonl").read_text()
    assert text.endswith("\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
