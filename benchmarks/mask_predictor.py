"""What choosing each image's mask by its predicted score adds to the best simple rule, and whether it stays on test.

    python benchmarks/mask_predictor.py [seeds=3]

Salt-like maps (two networks, their mean; 38 % empty), 500 scored images in 5 folds and 500 fresh ones; TGS precision.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("PODIUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from salt import metric_of, problem_of, salt  # noqa: E402

from pipeline.forecast.level import Match  # noqa: E402
from pipeline.forecast.mask_survey import Goal, Source  # noqa: E402
from pipeline.forecast.mask_worth import foretell  # noqa: E402
from pipeline.forecast.masks import process  # noqa: E402
from pipeline.scoring.mask_choice import choose, gate_gain, report  # noqa: E402
from pipeline.scoring.mask_variants import default_grid, measure  # noqa: E402

N = 500


def scene(seed):
    maps, members, truth = salt(N, seed)
    problem = problem_of(truth)
    source = Source(maps, members, np.array([mask.shape[1:] for mask in truth.masks]), np.zeros((N, 0)))
    return problem, source, Goal(metric_of(problem), truth, np.arange(N))


def one_seed(seed):
    problem, source, goal = scene(seed)
    grid = default_grid(1, False, False, False)
    started = time.perf_counter()
    stats = measure(source.maps, goal.truth, goal.rows, grid, goal.metric)
    choice = choose(problem, grid, stats)
    chosen = time.perf_counter()
    found = process(problem, source, goal, choice)
    done = time.perf_counter()
    fresh, test, goal_test = scene(1000 + seed)
    decided = found.plan.apply(test)
    mine = np.array([goal.metric.stats(goal_test.truth[i], decided.mask(i)) for i in range(N)])
    untuned, simple = (
        fresh.judge(measure(test.maps, goal_test.truth, goal.rows, [s], goal.metric)[:, 0])
        for s in (grid[0], choice.deployed)
    )
    told, evidence = report(problem, choice), found.evidence
    rule = evidence["rules"]["row 0"]
    level = foretell(
        problem, run="salt/lb", score=problem.judge(found.stats), se=told["se"], actual=found.actual,
        predicted_oof=found.oof.predicted, predicted_test=decided.predicted, models=1, match=Match(0.0, 0.0, exact=True),
        public_share=0.3,
        shift_auc=0.5, shift_p=1,
    )  # fmt: skip
    return {
        "untuned": told["fixed"],
        "best setting, cross-fitted": told["score"],
        "best setting, in-sample": told["in_sample"],
        "empty gate over none": gate_gain(problem, grid, stats)["gain"],
        "predictor, cross-fitted": rule["score"],
        "gain over the best simple rule": rule["gain"],
        "  95 % interval, low": rule["interval"][0],
        "  95 % interval, high": rule["interval"][1],
        "  share of the oracle gap": rule["of_oracle"],
        "adopted (1: yes)": float(found.adopted is not None),
        "Spearman of predicted scores": evidence["spearman"],
        "MAE of predicted scores": evidence["mae"],
        "MAE of their mean": evidence["mae_mean"],
        "fresh: untuned": untuned,
        "fresh: best setting": simple,
        "fresh: as adopted": fresh.judge(mine),
        "fresh: gain": fresh.judge(mine) - simple,
        "predicted private, low": level.private[90][0],
        "predicted private, high": level.private[90][1],
        "seconds: grid and choice": chosen - started,
        "seconds: predictor": done - chosen,
    }


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = [one_seed(seed) for seed in range(seeds)]
    print(f"{seeds} seeds, {N} scored and {N} fresh images: mean (each)")
    for name in found[0]:
        values = [f[name] for f in found]
        print(f"{name:34} {np.mean(values):8.4f} ({', '.join(f'{v:.4f}' for v in values)})")


if __name__ == "__main__":
    main()
