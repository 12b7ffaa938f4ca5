"""Targets of every head and how they are compared, against torch's own losses."""

import numpy as np
import pytest
import torch
from problems import ROW_TASKS as TASKS
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from sklearn.metrics import mean_pinball_loss
from test_losses import HOT, LABELS, RNG, VALUES, C, N, P, Q, Y, classes, near, scores
from torch.nn import functional as F

from pipeline.nets.losses import (
    EXCLUSIVE,
    INDEPENDENT,
    REAL,
    bce,
    ce,
    entry_weights,
    focal_softmax,
    losses_for,
    pinball,
)
from pipeline.nets.objective import Objective, above
from pipeline.store.errors import UserError


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile(quantile):
    a, b = RNG.normal(0, 2, (2, N, 3))
    ours = pinball(torch.from_numpy(a), torch.from_numpy(b), quantile)
    near(ours, [mean_pinball_loss(y, p, alpha=quantile) for p, y in zip(a, b, strict=True)])
    values = RNG.normal(3, 2, 401)
    made = Objective(TASKS["regression"], "regression", 1, values, name="quantile", quantile=quantile)
    target = made.encode(values)
    best = minimize_scalar(lambda s: made.loss(torch.full((401, 1), s), target).mean().item(), bounds=(-4, 4))
    found = best.x * made.spread.item() + made.center.item()
    assert found == pytest.approx(np.quantile(values, quantile), abs=0.05)


def test_soft_targets_are_a_distance_of_distributions():
    """Cross-entropy is KL plus what is uncertain in the target itself: with soft targets it has the gradient of KL."""
    soft = RNG.dirichlet(np.ones(C), N).astype(np.float32)
    near(ce(scores, torch.from_numpy(soft)), entropy(soft, P, axis=1) + entropy(soft, axis=1))
    share = RNG.random((N, C)).astype(np.float32)
    wanted = F.binary_cross_entropy_with_logits(scores, torch.from_numpy(share), reduction="none").mean(1)
    near(bce(scores, torch.from_numpy(share)), wanted)
    for task, said in (("multiclass", soft), ("multilabel", share)):
        y = Y if task == "multiclass" else LABELS
        made = Objective(TASKS[task], "classification", C, y)
        near(made.loss(scores, made.encode_prediction(said)), (ce if said is soft else bce)(scores, torch.tensor(said)))


@pytest.mark.parametrize("name", REAL)
def test_unknown_values_weigh_nothing(name):
    """A row's loss is that of its known values, over all values; unknown ones have no say in centre and spread."""
    y = VALUES.copy()
    y[0], y[1, 0], y[2, 1] = np.nan, np.nan, np.nan
    made = Objective(TASKS["regression"], "regression", 2, y, name=name)
    for column in range(2):
        known = y[~np.isnan(y[:, column]), column]
        assert made.center[column].item() == pytest.approx(known.mean())
        assert made.spread[column].item() == pytest.approx(known.std())
    s = scores[:, :2].clone().requires_grad_()
    values = made.loss(s, made.encode(y))
    (grad,) = torch.autograd.grad(values.sum(), s)
    assert values[0] == 0
    assert (grad.numpy()[np.isnan(y)] == 0).all()
    assert (grad.numpy()[~np.isnan(y)] != 0).all()
    filled = made.loss(s, made.encode(np.where(np.isnan(y), made.center, y))).detach()
    assert values[3:].tolist() == filled[3:].tolist()


def test_the_cumulative_head_asks_which_grades_a_row_is_above():
    made = Objective(TASKS["ordinal"], "cumulative", C, Y)
    above = (Y[:, None] > np.arange(C - 1)).astype(np.float32)
    assert made.encode(Y).tolist() == above.tolist()
    s = scores[:, : C - 1]
    near(
        made.loss(s, made.encode(Y)),
        F.binary_cross_entropy_with_logits(s, torch.tensor(above), reduction="none").mean(1),
    )
    heavy = Objective(TASKS["ordinal"], "cumulative", C, Y, class_weight="inverse")
    share = above.mean(0)
    weight = np.where(above == 1, 0.5 / share, 0.5 / (1 - share))
    entries = F.binary_cross_entropy_with_logits(s, torch.tensor(above), reduction="none").numpy()
    near(heavy.loss(s, heavy.encode(Y)), (entries * weight).mean(1))


@pytest.mark.parametrize("class_weight", ["none", "inverse"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "task, head, name",
    [("multiclass", "classification", name) for name in EXCLUSIVE]
    + [("multilabel", "classification", name) for name in INDEPENDENT]
    + [("ordinal", "classification", "ce")],
)
def test_soft_targets_are_linear(task, head, name, smoothing, class_weight):
    y = LABELS if task == "multilabel" else Y
    made = Objective(TASKS[task], head, C, y, name=name, smoothing=smoothing, class_weight=class_weight)
    here = made.encode(y)
    other, share = here.flip(0), 0.3
    mixed = made.loss(scores, share * here + (1 - share) * other)
    near(mixed, share * made.loss(scores, here) + (1 - share) * made.loss(scores, other))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_is_that_of_torch(smoothing):
    made = Objective(TASKS["multiclass"], "classification", C, Y, smoothing=smoothing)
    wanted = F.cross_entropy(scores, classes, reduction="none", label_smoothing=smoothing)
    near(made.loss(scores, made.encode(Y)), wanted)


def test_smoothing_of_labels_is_towards_one_half():
    made = Objective(TASKS["multilabel"], "classification", C, LABELS, smoothing=0.2)
    np.testing.assert_allclose(made.encode(LABELS), LABELS * 0.8 + 0.1, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torch(smoothing):
    y = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3])
    made = Objective(TASKS["multiclass"], "classification", C, y, class_weight="inverse", smoothing=smoothing)
    np.testing.assert_allclose(made.weights, 12 / (4 * np.array([6, 3, 2, 1])), rtol=1e-6)
    weights = torch.tensor([1 / 6, 1 / 3, 1 / 2, 1]) * 3
    target = torch.from_numpy(y)
    wanted = F.cross_entropy(scores, target, weight=weights, reduction="none", label_smoothing=smoothing)
    near(made.loss(scores, made.encode(y)), wanted)


@pytest.mark.parametrize("task, head", [("multilabel", "classification"), ("binary", "classification")])
def test_entry_weights_are_those_of_torch(task, head):
    y = LABELS if task == "multilabel" else LABELS[:, 0].astype(int)
    made = Objective(TASKS[task], head, C, y, class_weight="inverse")
    s = scores[:, : y[:1].size]
    share = torch.from_numpy(y.reshape(N, -1)).float().mean(0)
    plain = F.binary_cross_entropy_with_logits(
        s, made.encode(y), pos_weight=(1 - share) / share, weight=0.5 / (1 - share), reduction="none"
    )
    near(made.loss(s, made.encode(y)), plain.mean(1))


def test_entry_weights_of_an_absent_side_are_nothing():
    sides = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    np.testing.assert_allclose(entry_weights(sides), [[0.5, 0], [0, 0.5], [2, 2 / 3]], rtol=1e-6)
    made = Objective(TASKS["multilabel"], "classification", 3, sides.numpy(), class_weight="inverse", smoothing=0.1)
    assert made.loss(torch.zeros(4, 3), made.encode(sides.numpy())).max() < 2


HEADS = [(task, head) for task in TASKS.values() for head in task.heads]
TARGETS = {
    "binary": LABELS[:, 0].astype(int),
    "multiclass": Y,
    "multilabel": LABELS,
    "ordinal": Y,
    "regression": VALUES,
}


@pytest.mark.parametrize("name", ["auto", "second"])
@pytest.mark.parametrize("task, head", HEADS)
def test_encode_and_loss(task, head, name):
    y, table = TARGETS[task.name], losses_for(task, head)
    made = Objective(task, head, C, y, name="auto" if name == "auto" else list(table)[1])
    encoded = made.encode(y)
    z = (y.reshape(N, -1) - y.reshape(N, -1).mean(0)) / y.reshape(N, -1).std(0)
    wanted = {
        "binary": LABELS[:, :1], "multilabel": LABELS, "multiclass": np.eye(C)[Y], "regression": z,
        "ordinal": {"regression": z, "classification": np.eye(C)[Y], "both": np.c_[np.eye(C)[Y], z],
                    "all": np.c_[np.eye(C)[Y], Y[:, None] > np.arange(C - 1), z],
                    "cumulative": Y[:, None] > np.arange(C - 1)}[
            head if task.name == "ordinal" else "both"
        ],
    }[task.name]  # fmt: skip
    assert encoded.dtype == torch.float32
    np.testing.assert_allclose(encoded, wanted, rtol=1e-5, atol=1e-6)
    s = torch.from_numpy(RNG.normal(0, 1, encoded.shape)).requires_grad_()
    values = made.loss(s, encoded)
    assert values.shape == (N,)
    assert values.dtype == torch.float32
    (grad,) = torch.autograd.grad(values.sum(), s)
    assert grad.isfinite().all()
    assert (grad.abs().sum(0) > 0).all()  # every column of the head learns
    assert made.loss(s - 0.1 * grad, encoded).mean() < values.mean()


def test_both_adds_the_two():
    made = Objective(TASKS["ordinal"], "both", C, Y, name="huber", delta=0.7)
    wide = torch.from_numpy(RNG.normal(0, 1, (N, C + 1)).astype(np.float32))
    value = (torch.from_numpy(Y).float() - Y.mean()) / Y.std()
    wanted = F.cross_entropy(wide[:, :C], classes, reduction="none") + F.huber_loss(
        wide[:, C], value.float(), reduction="none", delta=0.7
    )
    near(made.loss(wide, made.encode(Y)), wanted)
    y = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3])
    plain, heavy = (
        Objective(TASKS["ordinal"], "both", C, y, class_weight=how, smoothing=0.0) for how in ("none", "inverse")
    )
    weights = 12 / (4 * np.array([6, 3, 2, 1]))[y]
    near(heavy.loss(wide, heavy.encode(y)), plain.loss(wide, plain.encode(y)) * weights)


def test_all_adds_the_three():
    made = Objective(TASKS["ordinal"], "all", C, Y)
    parts = {head: Objective(TASKS["ordinal"], head, C, Y) for head in ("classification", "cumulative", "regression")}
    wide = torch.from_numpy(RNG.normal(0, 1, (N, 2 * C)).astype(np.float32))
    columns = {"classification": wide[:, :C], "cumulative": wide[:, C:-1], "regression": wide[:, -1:]}
    near(
        made.loss(wide, made.encode(Y)), sum(parts[head].loss(s, parts[head].encode(Y)) for head, s in columns.items())
    )
    heavy = Objective(TASKS["ordinal"], "all", C, Y % 3, class_weight="inverse")
    plain = Objective(TASKS["ordinal"], "all", C, Y % 3)
    weights = heavy.weights[torch.from_numpy(Y % 3)]
    near(heavy.loss(wide, heavy.encode(Y % 3)), plain.loss(wide, plain.encode(Y % 3)) * weights)


def test_shares_above():
    shares = RNG.dirichlet(np.ones(C), N)
    wanted = np.stack([shares[:, k + 1 :].sum(1) for k in range(C - 1)], 1)
    np.testing.assert_allclose(above(torch.from_numpy(shares)), wanted, atol=1e-12)
    # The expected grade is the sum of them.
    np.testing.assert_allclose(above(torch.from_numpy(shares)).sum(1), shares @ np.arange(C), atol=1e-12)


def test_options_reach_the_loss():
    for name, option, values in (
        ("focal", "gamma", (1.0, 3.0)),
        ("huber", "delta", (0.5, 2.0)),
        ("quantile", "quantile", (0.2, 0.7)),
        ("asymmetric", "gamma_neg", (4.0, 2.0)),
        ("asymmetric", "gamma_pos", (1.0, 0.0)),
        ("asymmetric", "clip", (0.05, 0.2)),
    ):
        task = TASKS[{"focal": "multiclass", "asymmetric": "multilabel"}.get(name, "regression")]
        y = TARGETS[task.name]
        ways = [Objective(task, task.heads[0], C, y, name=name, **{option: value}) for value in values]
        s = scores[:, :2] if task.name == "regression" else scores
        assert not torch.allclose(*(way.loss(s, way.encode(y)) for way in ways))
    made = Objective(TASKS["multiclass"], "classification", C, Y, name="focal", gamma=3.0)
    near(made.loss(scores, HOT), focal_softmax(scores, HOT, 3.0))


def test_only_the_given_rows_count():
    y = np.r_[np.array([0.0, 0, 0, 4]), 1000.0][:, None]
    made = Objective(TASKS["regression"], "regression", 1, y[:4])
    assert made.center.tolist() == [1.0]
    assert made.spread.tolist() == pytest.approx([3**0.5])
    assert made.encode(y)[4].item() == pytest.approx(999 / 3**0.5)
    grades = np.array([0, 0, 0, 1, 1, 2])
    few = Objective(TASKS["multiclass"], "classification", 3, grades[:4], class_weight="inverse")
    np.testing.assert_allclose(few.weights, [4 / 9, 4 / 3, 0], rtol=1e-6)
    assert few.encode(grades).shape == (6, 3)


def test_targets_are_standardised_one_by_one():
    made = Objective(TASKS["regression"], "regression", 2, VALUES)
    np.testing.assert_allclose(made.center, VALUES.mean(0), rtol=1e-6)
    np.testing.assert_allclose(made.spread, VALUES.std(0), rtol=1e-6)


def test_constant_values_do_not_divide_by_zero():
    y = np.full((4, 1), 7.0)
    made = Objective(TASKS["regression"], "regression", 1, y)
    assert made.encode(y).isfinite().all()


def test_half_precision_scores_are_compared_in_full():
    made = Objective(TASKS["multiclass"], "classification", C, Y)
    assert made.loss(scores.bfloat16(), HOT).dtype == torch.float32


@pytest.mark.parametrize("task, head, name, near", [
    ("multiclass", "classification", "fokal", "focal"),
    ("multilabel", "classification", "bec", "bce"),
    ("regression", "regression", "hubert", "huber"),
])  # fmt: skip
def test_unknown_loss(task, head, name, near):
    with pytest.raises(UserError, match=f"{name!r}; did you mean {near!r}"):
        Objective(TASKS[task], head, C, TARGETS[task], name=name)


@pytest.mark.parametrize("head, name", [("classification", "mse"), ("regression", "ce"), ("both", "focal")])
def test_loss_of_another_head(head, name):
    with pytest.raises(UserError, match=f"unknown loss for a {head} head {name!r}"):
        Objective(TASKS["ordinal"], head, C, Y, name=name)


@pytest.mark.parametrize("options", [{"smoothing": 0.1}, {"class_weight": "inverse"}])
def test_values_have_no_classes(options):
    with pytest.raises(UserError, match="need classes"):
        Objective(TASKS["regression"], "regression", 2, VALUES, **options)


def test_tables():
    assert [losses_for(task, head) for task, head in HEADS] == [
        INDEPENDENT, EXCLUSIVE, INDEPENDENT, REAL, EXCLUSIVE, REAL, INDEPENDENT, REAL, REAL
    ]  # fmt: skip


UNKNOWN = np.random.default_rng(3).random((N, C)) < 0.4
UNKNOWN[0] = True
UNKNOWN[1] = False


@pytest.mark.parametrize("class_weight", ["none", "inverse"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_unknown_labels_weigh_nothing(name, smoothing, class_weight):
    made = Objective(
        TASKS["multilabel"], "classification", C, LABELS, name=name, smoothing=smoothing, class_weight=class_weight
    )
    said = np.where(UNKNOWN, np.nan, LABELS)
    targets = made.encode_prediction(said)
    assert np.array_equal(targets.isnan().numpy(), UNKNOWN)
    s = scores.clone().requires_grad_()
    values = made.loss(s, targets)
    (grad,) = torch.autograd.grad(values.sum(), s)
    assert (grad.numpy()[UNKNOWN] == 0).all()
    # What asymmetric loss forgives, negatives below its clip, has no gradient either.
    easy = (LABELS == 0) & (Q < 0.05) if name == "asymmetric" and not smoothing else np.zeros_like(UNKNOWN)
    assert (grad.numpy()[~UNKNOWN & ~easy] != 0).all()
    # Label by label as if the others were not there, over all labels.
    whole = made.encode(LABELS)
    for i in range(N):
        known = np.flatnonzero(~UNKNOWN[i])
        one = [mask_but(made, scores[i : i + 1], whole[i : i + 1], label) for label in known]
        assert values[i].item() == pytest.approx(sum(one), rel=1e-4, abs=1e-7)
    near(values[1:2].detach().expand(N), made.loss(scores[1:2], whole[1:2]).expand(N))


def mask_but(made, s, target, label):
    """The loss of one row of which one label is known."""
    masked = torch.full_like(target, torch.nan)
    masked[:, label] = target[:, label]
    return made.loss(s, masked).item()


@pytest.mark.parametrize("name", INDEPENDENT)
def test_one_known_label_is_its_share_of_the_mean(name):
    made = Objective(TASKS["multilabel"], "classification", C, LABELS, name=name)
    alone = Objective(TASKS["binary"], "classification", 2, LABELS[:, 2].astype(int), name=name)
    masked = np.full((N, C), np.nan)
    masked[:, 2] = LABELS[:, 2]
    near(made.loss(scores, made.encode_prediction(masked)), alone.loss(scores[:, 2:3], alone.encode(LABELS[:, 2])) / C)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task, head", HEADS)
def test_a_hard_prediction_is_encoded_as_the_target_it_says(task, head, smoothing):
    y = TARGETS[task.name]
    made = Objective(task, head, C, y, smoothing=0.0 if head == "regression" else smoothing)
    said = np.eye(C)[y] if task.name == "multiclass" else y.reshape(N, -1).astype(np.float32)
    np.testing.assert_allclose(made.encode_prediction(said), made.encode(y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task, head", HEADS)
def test_a_soft_prediction_keeps_what_it_says(task, head):
    y = TARGETS[task.name]
    made = Objective(task, head, C, y)
    said = {
        "binary": Q[:, :1],
        "multiclass": P,
        "multilabel": Q,
        "ordinal": RNG.uniform(-0.7, 3.7, (N, 1)),
        "regression": VALUES + 1,
    }[task.name]
    targets = made.encode_prediction(said).numpy()
    center, spread = y.reshape(N, -1).mean(0), y.reshape(N, -1).std(0)
    if head == "cumulative":
        # As many grades above as it is worth, the last one in part.
        np.testing.assert_allclose(targets.sum(1), said[:, 0].clip(0, C - 1), rtol=1e-4, atol=1e-5)
        assert (np.diff(targets, axis=1) <= 0).all()
        assert (((targets > 0) & (targets < 1)).sum(1) <= 1).all()
    elif task.name == "ordinal" and head != "regression":
        # The expected grade stays, shared by its two neighbours; one beyond the ends is the end.
        np.testing.assert_allclose(targets[:, :C].sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(targets[:, :C] @ np.arange(C), said[:, 0].clip(0, C - 1), rtol=1e-4, atol=1e-5)
        assert (np.count_nonzero(targets[:, :C], axis=1) <= 2).all()
    elif task.probabilities:
        np.testing.assert_allclose(targets, said, rtol=1e-5)
    if head in ("regression", "both", "all"):
        np.testing.assert_allclose(targets[:, -center.size :], (said - center) / spread, rtol=1e-4, atol=1e-5)


def teacher_of(task):
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 3, (N, C)).astype(np.float32)
    if task.name == "multiclass":
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if task.probabilities:
        return 1 / (1 + np.exp(-logits[:, : 1 if task.name == "binary" else C]))
    return rng.uniform(0, C - 1, (N, 1)) if task.name == "ordinal" else rng.normal(5, 3, (N, 2))


@pytest.mark.parametrize("temperature, alpha", [(1.0, 0.3), (3.0, 0.7), (4.0, 1.0), (2.0, 0.0)])
@pytest.mark.parametrize("task, head", HEADS)
def test_distillation_is_that_of_hinton(task, head, temperature, alpha):
    """The gradient of (1 - alpha) loss + alpha T^2 KL(teacher at T || student at T), written with torch's own losses."""
    y, said = TARGETS[task.name], teacher_of(task)
    made = Objective(task, head, C, y, temperature=temperature, alpha=alpha)
    plain = Objective(task, head, C, y)
    targets = torch.cat([made.encode(y), made.soften(said)], 1)
    s = torch.from_numpy(
        np.random.default_rng(2).normal(0, 2, made.encode(y).shape).astype(np.float32)
    ).requires_grad_()
    (found,) = torch.autograd.grad(made.loss(s, targets).sum(), s)
    assert made.loss(s, targets).shape == (N,)
    shares = plain.encode_prediction(said)
    follow = torch.zeros(())
    if head in ("regression", "both", "all"):
        width = s.shape[1] if head == "regression" else 1
        follow = follow + F.mse_loss(s[:, -width:], shares[:, -width:], reduction="none").mean(1).sum()
    if head == "all":
        soft = (torch.logit(shares[:, C:-1], 1e-6) / temperature).sigmoid()
        entries = F.binary_cross_entropy_with_logits(s[:, C:-1] / temperature, soft, reduction="none")
        follow = follow + temperature**2 * entries.mean(1).sum()
    if head in ("classification", "both", "all") and task.name in ("multiclass", "ordinal"):
        soft = (shares[:, :C].clamp(min=1e-6).log() / temperature).softmax(1)
        follow = follow + temperature**2 * F.kl_div((s[:, :C] / temperature).log_softmax(1), soft, reduction="sum")
    elif head in ("classification", "cumulative"):
        soft = (torch.logit(shares, 1e-6) / temperature).sigmoid()
        entries = F.binary_cross_entropy_with_logits(s / temperature, soft, reduction="none")
        follow = follow + temperature**2 * entries.mean(1).sum()
    total = (1 - alpha) * plain.loss(s, plain.encode(y)).sum() + alpha * follow
    (wanted,) = torch.autograd.grad(total, s)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


# A grade is not one distribution over the grades.
@pytest.mark.parametrize("task, head", [(task, head) for task, head in HEADS if task.name != "ordinal"])
def test_a_student_that_says_what_its_teacher_says_is_done(task, head):
    said = teacher_of(task)
    made = Objective(task, head, C, TARGETS[task.name], temperature=3.0, alpha=1.0)
    targets = torch.cat([made.encode(TARGETS[task.name]), made.soften(said)], 1)
    if head == "regression":
        s = made.encode_prediction(said)
    else:
        s = torch.from_numpy(said).log() if task.name == "multiclass" else torch.from_numpy(said).logit()
    s = s.float().requires_grad_()
    (grad,) = torch.autograd.grad(made.loss(s, targets).sum(), s)
    assert grad.abs().max() < 1e-3


def test_hot_teachers_are_softer():
    said = teacher_of(TASKS["multiclass"])
    spreads = [
        Objective(TASKS["multiclass"], "classification", C, Y, temperature=t, alpha=1.0)
        .soften(said)
        .max(1)
        .values.mean()
        for t in (1.0, 2.0, 8.0)
    ]
    assert spreads == sorted(spreads, reverse=True)
    np.testing.assert_allclose(Objective(TASKS["multiclass"], "classification", C, Y).soften(said), said, rtol=1e-4)


@pytest.mark.parametrize("task, head", [(t, h) for t, h in HEADS if h != "regression"])
def test_smoothing_is_of_labels_not_of_the_teacher(task, head):
    """What a sure teacher thinks of the wrong classes is what there is to learn from it."""
    said = teacher_of(task)
    smooth, plain = (
        Objective(task, head, C, TARGETS[task.name], smoothing=s, temperature=2.0, alpha=0.5) for s in (0.2, 0.0)
    )
    torch.testing.assert_close(smooth.soften(said), plain.soften(said))
    assert not torch.equal(smooth.encode_prediction(said), plain.encode_prediction(said))


def test_rows_mix_with_their_teacher():
    """Mixup mixes the columns of the label and of the teacher alike, and the loss is linear in both."""
    made = Objective(TASKS["multiclass"], "classification", C, Y, temperature=2.0, alpha=0.6)
    here = torch.cat([made.encode(Y), made.soften(teacher_of(TASKS["multiclass"]))], 1)
    mixed = made.loss(scores, 0.3 * here + 0.7 * here.flip(0))
    near(mixed, 0.3 * made.loss(scores, here) + 0.7 * made.loss(scores, here.flip(0)))


def test_soft_classes_are_targets_as_they_are():
    task, y = TASKS["multiclass"], np.random.default_rng(0).dirichlet(np.ones(4), 6)
    made = Objective(task, "classification", 4, y, smoothing=0.2)
    torch.testing.assert_close(made.encode(y), torch.tensor(0.8 * y + 0.05, dtype=torch.float32))
    scores = torch.randn(6, 4)
    plain = Objective(task, "classification", 4, y)
    torch.testing.assert_close(
        plain.loss(scores, plain.encode(y)),
        F.cross_entropy(scores, torch.tensor(y, dtype=torch.float32), reduction="none"),
    )
    hard = np.array([0, 2, 1, 3, 3, 0])
    torch.testing.assert_close(plain.encode(np.eye(4)[hard]), Objective(task, "classification", 4, hard).encode(hard))


def test_weights_of_entries_are_of_known_labels():
    task = TASKS["multilabel"]
    y = np.array([[1, 0], [0, np.nan], [0, np.nan], [1, 1]])
    made = Objective(task, "classification", 2, y, class_weight="inverse")
    torch.testing.assert_close(made.weights[0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(made.weights[1], torch.tensor([1.0, 1.0]))
