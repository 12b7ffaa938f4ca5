"""The next public score from past (CV, public) pairs: ours against least squares and the mean offset, in one run.

Simulated competitions, and leave-one-out on two published tables of pairs.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy
from scipy.special import expit, logit
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.forecast.regression import Scale, Variances, posterior

# (CV, public): 13 submissions of one competitor, a loss; six single models of the fourth place of TGS salt.
TABLES = {
    "13 submissions, a loss": (
        [0.0111, 0.0123, 0.0105, 0.0104, 0.0097, 0.0093, 0.0092, 0.0090, 0.0087, 0.0085, 0.0083, 0.0090, 0.0145],
        [0.0982, 0.1065, 0.0972, 0.0969, 0.0946, 0.0932, 0.0936, 0.0913, 0.0893, 0.0887, 0.0877, 0.0932, 0.1147],
    ),
    "6 models, TGS salt": ([0.873, 0.871, 0.868, 0.870, 0.868, 0.869], [0.873, 0.872, 0.870, 0.871, 0.869, 0.871]),
}


def shared_rows(rng, past, n, n_public, skill, shift):
    """Accuracies of models on the same rows, each row as hard for all of them."""
    hard = 1.5 * rng.normal(size=n), 1.5 * rng.normal(size=n_public) + shift
    return [(skill[:, None] - d + rng.logistic(size=(past + 1, len(d))) > 0).mean(1) for d in hard]


def own_noise(rng, past, n, n_public, skill, shift):
    """Accuracies whose errors have nothing in common, on a line of random slope."""
    there = skill.mean() - shift + (1 + 0.3 * rng.standard_t(3)) * (skill - skill.mean())
    return rng.binomial(n, expit(skill)) / n, rng.binomial(n_public, expit(there)) / n_public


def competition(rng, past, kind):
    """Draw 160-2,500 scored and 130-2,000 public rows, models of differing spread, and a shift in two of three."""
    n, n_public = int(10 ** rng.uniform(2.2, 3.4)), int(10 ** rng.uniform(2.1, 3.3))
    skill = rng.uniform(0.5, 3) + rng.choice([0.1, 0.25, 0.5]) * rng.normal(size=past + 1)
    cv, public = kind(rng, past, n, n_public, skill, rng.choice([0, 0.1, 0.3]) * rng.normal())
    return n, n_public, np.clip(cv, 1 / (n + 2), 1 - 1 / (n + 2)), public


def ours(x, y, level, errors):
    return np.quantile(posterior(x, y, level, errors).public, [0.05, 0.5, 0.95])


def least_squares(x, y, level, errors):
    """The 90 % prediction interval at x = 0."""
    n, centred = len(x), x - x.mean()
    slope = centred @ y / (centred @ centred)
    residual = y - y.mean() - slope * centred
    middle = y.mean() - slope * x.mean()
    error = (residual @ residual / (n - 2) * (1 + 1 / n + x.mean() ** 2 / (centred @ centred))) ** 0.5
    return middle + error * t.ppf([0.05, 0.5, 0.95], n - 2)


def offset_only(x, y, level, errors):
    """CV plus the mean offset, with the noise of both samples known."""
    offset, noise = (y - x).mean(), (errors.public + errors.cv) * (1 + 1 / len(x))
    return offset + noise**0.5 * np.array([-1.645, 0, 1.645])


METHODS = {"ours": ours, "least squares": least_squares, "offset only": offset_only}


def simulate(rng, past, kind, runs):
    """Print coverage, median half-width and mean absolute error of the public score for each method."""
    hit, half, missed = ({name: [] for name in METHODS} for _ in range(3))
    start = time.perf_counter()
    for _ in range(runs):
        n, n_public, cv, public = competition(rng, past, kind)
        p, z = cv[-1], logit(cv)
        y = logit(np.clip(public, 0.5 / n_public, 1 - 0.5 / n_public))
        errors = Variances(*(1 / (size * p * (1 - p)) for size in (n, n_public, n_public, n)))
        for name, method in METHODS.items():
            low, middle, high = expit(method(z[:-1] - z[-1], y[:-1], z[-1], errors))
            hit[name].append(low - 0.5 / n_public <= public[-1] <= high + 0.5 / n_public)
            half[name].append((high - low) / 2)
            missed[name].append(abs(middle - public[-1]))
    seconds = time.perf_counter() - start
    for name in METHODS:
        cover = np.mean(hit[name])
        met = "" if name != "ours" else "  met" if 0.85 <= cover <= 0.95 else "  MISSED"
        print(
            f"{kind.__name__:12} {past:4} {name:14} {cover:6.3f} +- {(cover * (1 - cover) / runs) ** 0.5:.3f} "
            f"{np.median(half[name]):9.4f} {np.mean(missed[name]):9.4f}{met}"
        )
    return seconds


def leave_one_out(name, scale, error):
    """Print the leave-one-out errors of a published table, ours and the simple rules."""
    cv, public = map(np.array, TABLES[name])
    missed, inside = {"ours": [], "offset only": [], "mean only": []}, 0
    for j in range(len(cv)):
        rest = np.arange(len(cv)) != j
        z, variance = scale.up(cv), (error * float(scale.slope(cv[j]))) ** 2
        found = ours(z[rest] - z[j], scale.up(public)[rest], z[j], Variances(*[variance] * 4))
        low, middle, high = scale.down(found)
        inside += low <= public[j] <= high
        missed["ours"].append(abs(middle - public[j]))
        missed["offset only"].append(abs(cv[j] + (public - cv)[rest].mean() - public[j]))
        missed["mean only"].append(abs(public[rest].mean() - public[j]))
    told = ", ".join(f"{rule} {np.mean(errors):.5f}" for rule, errors in missed.items())
    print(f"{name} (n = {len(cv)}, leave one out): {told}; 90 % interval covers {inside} of {len(cv)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}; ", end="")
    print(f"{args.runs} competitions a row; cover of the 90 % interval must lie in .85-.95\n")
    print(f"{'world':12} {'past':>4} {'method':14} {'cover':>15} {'half-width':>10} {'error':>9}")
    rng, seconds = np.random.default_rng(0), 0.0
    for kind in (shared_rows, own_noise):
        for past in (3, 5, 10):
            seconds += simulate(rng, past, kind, args.runs)
    print(f"\n{seconds:.0f} s for {6 * args.runs} competitions and three methods\n")
    leave_one_out("13 submissions, a loss", Scale(0.0, np.inf), 0.0005)
    leave_one_out("6 models, TGS salt", Scale(0.0, 1.0), 0.001)


if __name__ == "__main__":
    main()
