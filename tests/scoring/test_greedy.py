import numpy as np
import pytest
from test_convex import table

from pipeline.scoring.greedy import greedy
from pipeline.scoring.metrics import METRICS


def caruana(members, score, steps):
    """Try every member at every step; keep the best bag seen."""
    bag = [max(range(len(members)), key=lambda m: score(members[m]))]
    bags = [list(bag)]
    while len(bag) < steps:
        values = [score(np.mean([members[i] for i in [*bag, m]], axis=0)) for m in range(len(members))]
        bag.append(int(np.argmax(values)))
        bags.append(list(bag))
    best = max(bags, key=lambda b: score(np.mean([members[i] for i in b], axis=0)))
    return np.bincount(best, minlength=len(members)) / len(best)


@pytest.mark.parametrize(
    "task, name", [("binary", "roc_auc"), ("binary", "f1"), ("multiclass", "log_loss"), ("ordinal", "mae")]
)
def test_greedy_against_the_naive_loop(task, name):
    problem, members = table(task, 80, 4, quality=[0.8, 0.9, 1, 1.2])
    metric, cuts = METRICS[name], problem.task.default_cuts(4)

    def score(p, w):
        return float(metric.gain(metric(problem.task, problem.y, p, cuts, w), 0.0))

    bags = [np.ones(80), *np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), 2).astype(float)]
    each = [caruana(members, lambda p, w=w: score(p, w), 12) for w in bags]
    assert all(len(set(e.tolist())) > 1 for e in each)
    assert greedy(members, score, bags, 12) == pytest.approx(np.mean(each, 0))
    best = int(np.argmax([score(p, bags[0]) for p in members]))
    assert greedy(members, score, bags[:1], 1).tolist() == np.eye(4)[best].tolist()


def test_greedy_leaves_its_members_alone_and_drops_bad_ones():
    members = [np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])]
    w = greedy(members, lambda p, _: -float(np.abs(p - [[1], [0]]).sum()), [np.ones(2)], 10)
    assert w.tolist() == [1, 0]
    assert members[0].tolist() == [[1], [0]]
